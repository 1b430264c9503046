"""Language: a response that is predicted token by token, whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.functional import at_least_float32
from potstill.language.heads import Split, split
from potstill.language.vocabulary import narrowed
from potstill.lazy import LOGITS
from potstill.types import (
    MAIN,
    Answer,
    Batch,
    LazyLogits,
    LiveSource,
    Progress,
    Source,
    SourceOutputs,
    Stateful,
    TopLogits,
)

Judge = Callable[[nn.Module], dict[str, float]]
"""What a network's own responses are worth, by the names of the scores."""


@dataclass(frozen=True)
class TextEvaluation:
    """What a language model is worth: `scores` by name. `loss` is the mean negative log-likelihood of a response token,
    `perplexity` its exponential, `token_accuracy` the percentage of tokens predicted; a judge adds others.
    """

    scores: dict[str, float]
    finite: bool

    @property
    def measured(self) -> dict[str, Any]:
        """What a row of `metrics.jsonl` says of it."""
        return {f"valid_{name}": value for name, value in self.scores.items()}

    @property
    def says(self) -> str:
        """The scores in a line."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())


class Language:
    """Texts of a prompt and a response, for causal language models of transformers.

    `sequences` writes the response that is learnt from, in place of the data set's. The answer is the logits
    `[B, R, V]` of the response's tokens alone, with `lazy` as `LazyLogits`; where a view has no "at", of all tokens
    `[B, L, V]`. `vocabulary` is how many tokens there are: columns beyond are padding and are left out. `judge` scores
    what a network writes, in `evaluate`. `ends` are the tokens that end a text, `longest` is how many tokens the data's
    longest response has, and `tokenizer` made them: what a scheme that writes needs to know. `passes` optimizer steps
    are taken on every batch.
    """

    combine_scope: Literal["unit", "batch"] = "unit"
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        sequences: Any = None,
        *,
        lazy: bool = True,
        vocabulary: int | None = None,
        judge: Judge | None = None,
        ends: Any = None,
        longest: int = 128,
        tokenizer: Any = None,
        passes: int = 1,
    ):
        self.sequences, self.lazy, self.vocabulary, self.judge = sequences, lazy, vocabulary, judge
        self.ends, self.longest, self.tokenizer, self.steps_per_batch = ends, longest, tokenizer, passes
        self._splits: WeakKeyDictionary[nn.Module, Split | None] = WeakKeyDictionary()

    def writing(self, sequences: Any, passes: int = 1) -> Language:
        """The same kind of example, with responses that somebody else writes."""
        around = getattr(self.sequences, "around", None)  # of two tokenizers: whoever writes, both sides read it
        sequences = sequences if around is None else around(sequences)
        same: dict[str, Any] = {
            "lazy": self.lazy,
            "vocabulary": self.vocabulary,
            "ends": self.ends,
            "longest": self.longest,
            "tokenizer": self.tokenizer,
        }
        return Language(sequences, **same, passes=passes)

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        made = batch if self.sequences is None else self.sequences(batch, sources, progress, seed)
        return (made,) * self.steps_per_batch

    def forward(self, model: nn.Module, batch: Batch, view: str) -> Answer:
        seen = batch.views[view]
        at, parts = seen.extras.get("at"), self._parts(model)
        if parts is None:
            causal = cast(Any, model)
            return self._real(_taken(causal(**seen.input, use_cache=False).logits, at), view)
        hidden = _taken(parts.hidden(**seen.input), at)
        return self._real(LazyLogits(hidden, parts.weight, parts.bias), view)

    def _parts(self, model: nn.Module) -> Split | None:
        """Backbone and head, looked for once; None where logits are wanted whole, or are more than these two give."""
        if self.lazy and model not in self._splits:
            self._splits[model] = split(model)
        return self._splits.get(model)

    def _real(self, answer: Answer, view: str) -> Answer:
        """Without the columns that no token has. A view in other tokens than the data's has a width of its own."""
        return narrowed(answer, getattr(self.sequences, "widths", {}).get(view, self.vocabulary))

    def combine(self, outputs: SourceOutputs, batch: Batch) -> SourceOutputs:
        return outputs

    def mask(self, batch: Batch, view: str) -> Tensor | None:
        return batch.views[view].mask

    def report(self) -> dict[str, float]:
        """What the texts of the last epoch were like."""
        return {} if self.sequences is None else self.sequences.report()

    def state_dict(self) -> dict[str, Any]:
        return self.sequences.state_dict() if isinstance(self.sequences, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.sequences, Stateful):
            self.sequences.load_state_dict(state)

    def evaluate(self, source: LiveSource, loader: Iterable[Batch], reference: Tensor | None = None) -> TextEvaluation:
        """The likelihood of the data's responses, and what the judge says of the network's own."""
        sums: Tensor | None = None
        with source.evaluating():
            for batch in loader:
                seen = batch.main
                assert seen.label is not None
                assert seen.mask is not None
                answer = source(self, batch, MAIN, ()).output
                assert not isinstance(answer, TopLogits), "a cache is not evaluated"
                found = _likelihood(answer, seen.label, seen.mask)
                sums = found if sums is None else sums + found
            if sums is None:
                raise ValueError("there is nothing to evaluate on: no batch")
            loss, right, count = sums.tolist()
            if not count:
                raise ValueError("there is nothing to evaluate on: the texts have prompts and no responses")
            mean = loss / count
            scores = {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "token_accuracy": 100 * right / count}
            if self.judge is not None and source.module is not None:
                scores |= self.judge(source.module)
        return TextEvaluation(scores, math.isfinite(mean))


def _taken(value: Tensor, at: Tensor | None) -> Tensor:
    """The rows `[B, R, D]` of `[B, L, D]` at these places."""
    return value if at is None else value.gather(1, at[..., None].expand(-1, -1, value.shape[-1]))


def _likelihood(answer: Tensor | LazyLogits, label: Tensor, mask: Tensor) -> Tensor:
    """Sums over tokens that count: negative log-likelihood, how many were predicted, how many there are."""
    label, weight = label.flatten(), mask.flatten().double()
    step = max(1, LOGITS // answer.shape[-1])
    total = torch.zeros(3, dtype=torch.float64, device=label.device)
    for start in range(0, len(label), step):
        some = slice(start, start + step)
        logits = answer.cast().rows(some) if isinstance(answer, LazyLogits) else answer.flatten(0, -2)[some]
        logits = at_least_float32(logits)
        nll = F.cross_entropy(logits, label[some], reduction="none").double()
        right = (logits.argmax(-1) == label[some]).double()
        total += torch.stack([nll, right, torch.ones_like(nll)]).mul(weight[some]).sum(1)
    return total
