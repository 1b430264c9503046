"""Masked language modelling: some tokens of a text are hidden, and predicted from the others (Devlin et al. 2019).

Letters in shapes: B samples, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from potstill.functional import at_least_float32
from potstill.hashing import hash_index, uniform
from potstill.tasks.classify import Classify
from potstill.tasks.language import TextEvaluation
from potstill.types import MAIN, Answer, Batch, LiveSource, Progress, Source, SourceOutputs, View

MASKED = "masked"
"""The view of the tokens that are to be predicted: the same answers, another mask."""


@dataclass(frozen=True)
class Masking:
    r"""Which tokens are to be predicted, and what stands in their place.

    Of a text of n tokens $\lfloor s n + u \rfloor$ are chosen, u uniform in [0, 1), s = `share`: on average that part.
    Those with the most $\log w + g$, g from a Gumbel distribution, are: drawn one by one in proportion to w, not put
    back. w is 1, or where `rarity` `[V]` is given that of the token (`rarity_of`), so rare ones are chosen more often;
    `special` ids (beginning, end, padding) never are. A chosen token becomes `mask_id`, stays with probability `kept`
    or becomes any token of the vocabulary with probability `random`.

    Raises:
        ValueError: shares outside [0, 1], or ids outside the vocabulary.
    """

    mask_id: int
    vocabulary: int
    special: tuple[int, ...] = ()
    share: float = 0.15
    kept: float = 0.1
    random: float = 0.1
    rarity: Float[Tensor, "V"] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or min(self.kept, self.random) < 0 or self.kept + self.random > 1:
            raise ValueError(
                f"masking: share {self.share} must lie in (0, 1], kept {self.kept} and random {self.random} in [0, 1] "
                "with a sum of at most 1"
            )
        wrong = [number for number in (self.mask_id, *self.special) if not 0 <= number < self.vocabulary]
        if wrong:
            raise ValueError(
                f"masking: id {wrong[0]} lies outside the vocabulary of {self.vocabulary} tokens; name the tokenizer's "
                "own mask token and special tokens"
            )

    def __call__(
        self, ids: Int64[Tensor, "B L"], keep: Bool[Tensor, "B L"], index: Int64[Tensor, "B"], *salts: int | str
    ) -> tuple[Int64[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """The ids that a network sees, and which tokens it is to predict. Random numbers are hashed from the samples'
        indices, places in the text (wherever its padding lies) and the salts.
        """
        may = keep
        for number in self.special:
            may = may & (ids != number)
        # One draw for each token: what a sample draws at all, and where in its text.
        places = hash_index(index, *salts, "text")[:, None] + keep.cumsum(1)

        def numbers(what: str) -> Tensor:
            return uniform(places, what)

        weights = 0.0 if self.rarity is None else self.rarity[ids].log()
        gumbel = -(-numbers("choice").clamp(min=2.0**-60).log()).clamp(min=2.0**-60).log()
        place = torch.where(may, gumbel + weights, -torch.inf).argsort(1, descending=True).argsort(1)
        wanted = (self.share * keep.sum(1) + uniform(index, *salts, "rounding")).floor()
        chosen = may & (place < wanted[:, None])
        kind = numbers("kind")
        any_token = (numbers("token") * self.vocabulary).long()
        put = torch.where(kind < self.random, any_token, self.mask_id)
        shown = torch.where(chosen & (kind < 1 - self.kept), put, ids)
        return shown, chosen


def rarity_of(batches: Iterable[Batch], vocabulary: int, smoothing: float) -> Float[Tensor, "V"]:
    """DistilBERT's weights `max(count, 1) ** -smoothing` of all tokens, counted in texts."""
    counts: Tensor | None = None
    for batch in batches:
        ids, keep = tokens_of(batch.main)
        found = torch.zeros(vocabulary, dtype=torch.float64, device=ids.device)
        found.index_add_(0, ids.flatten(), keep.flatten().double())
        counts = found if counts is None else counts + found
    if counts is None:
        raise ValueError("masking: there is no text to count tokens in; smoothing=0 does without")
    return counts.clamp(min=1).pow(-smoothing)


def tokens_of(view: View) -> tuple[Int64[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Ids of a view's tokens, and which are no padding. Raises ValueError for a view of something else than text."""
    given = view.input
    if not isinstance(given, Mapping) or "input_ids" not in given:
        found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"expected tokenised text, a mapping with input_ids and attention_mask, got {found}")
    ids, mask = given["input_ids"], given.get("attention_mask")
    return ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()


class MaskedLanguage(Classify):
    """Texts of which some tokens are hidden. The main view shows what is left, its label is the text as it was and its
    mask all tokens of it; the view `masked` is the same answers `[B, L, V]` where a token was chosen.

    The network is a `transformers.AutoModelForMaskedLM`, or any module that takes `input_ids` and `attention_mask` and
    answers with logits, or with something that has `.logits`.
    """

    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {MASKED: (MAIN,)}

    def __init__(self, masking: Masking):
        self.masking = masking

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        main = batch.main
        ids, keep = tokens_of(main)
        shown, chosen = self.masking(ids, keep, main.index, seed, "mask", progress.step)
        # Some networks compute with the mask, so it is no bool.
        inputs = {**main.input, "input_ids": shown, "attention_mask": keep.long()}
        hidden = replace(main, input=inputs, label=ids, mask=keep)
        return (Batch({**batch.views, MAIN: hidden, MASKED: replace(hidden, input=None, mask=chosen)}),)

    def forward(self, model: nn.Module, batch: Batch, view: str) -> Answer:
        said = model(**batch.views[view].input)
        return getattr(said, "logits", said)

    def combine(self, outputs: SourceOutputs, batch: Batch) -> SourceOutputs:
        return {source: {**views, MASKED: views[MAIN]} if MAIN in views else views for source, views in outputs.items()}

    def evaluate(self, source: LiveSource, loader: Iterable[Batch], reference: Tensor | None = None) -> TextEvaluation:
        """Mean negative log-likelihood of a hidden token, and the percentage predicted, hidden alike in every call."""
        loss, right = [], []
        with source.evaluating():
            for batch in loader:
                (shown,) = self.prepare(batch, {}, Progress(0, 0, 1), seed=0)
                seen = shown.views[MASKED]
                assert seen.label is not None
                logits, label = (
                    at_least_float32(source(self, shown, MAIN, ()).dense()[seen.mask]),
                    seen.label[seen.mask],
                )
                loss.append(F.cross_entropy(logits, label, reduction="none"))
                right.append(logits.argmax(-1) == label)
        if not sum(map(len, loss)):
            raise ValueError("there is nothing to evaluate on: no hidden token")
        mean = torch.cat(loss).double().mean().item()
        scores = {"loss": mean, "token_accuracy": 100 * torch.cat(right).double().mean().item()}
        return TextEvaluation(scores, math.isfinite(mean))


def ids_of(text: str, name: str) -> tuple[int, ...]:
    """Ids as a method string writes them.

    >>> ids_of("0/101/102", "special")
    (0, 101, 102)
    """
    try:
        return tuple(int(part) for part in str(text).split("/") if part)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, expected ids of tokens such as 0/101/102") from None
