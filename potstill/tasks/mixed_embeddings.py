"""Text that is made of two by mixing word embeddings (MixKD).

Letters in shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.data.mixing import Per, beta, shuffled
from potstill.tasks.text_classify import TextClassify, accepted, logits_of, taken_by
from potstill.types import Answer, Batch, Progress, Source, View

MIXED = "mixed"
"""Name of the view."""
PER_TOKEN = ("input_ids", "token_type_ids", "position_ids")
"""Inputs of which embeddings are made."""


class MixedEmbeddings(TextClassify):
    r"""Adds the view `mixed`: each row with another one of the batch, its partner, with a share $\lambda$ of its own.

    $$\tilde E = \lambda E_i + (1 - \lambda) E_j, \qquad \lambda \sim Beta(\alpha, \alpha)$$

    where $E$ `[B, L, D]` are a network's own embeddings, so every network mixes its own, with the same pairs and
    shares. They are mixed after the sum of token, position and segment embeddings and before the layer norm behind it;
    behind the end of a text its $E$ is zero. Attention sees the union of the two texts (of one alone where the other's
    share is 0). With $\lambda = 1$ the network computes what it computes of the row itself, bit for bit.

    `share` is drawn for each row (`per="sample"`) or once a batch. The view has the extras `share` and, where there are
    classes, `other`, the partner's label; a score is mixed like the embeddings. Its input is a text that covers both:
    the row's own tokens and, behind its end, those of its partner. Everything is hashed from (seed, step, index).

    Raises:
        ValueError: an `alpha` that is not positive; inputs that are no token ids; when it runs, a network whose place
            to mix is unknown (`place_of`).
    """

    def __init__(self, alpha: float = 0.4, per: Per = "sample"):
        if not alpha > 0:
            raise ValueError(f"mixed embeddings: Beta(alpha, alpha) needs a positive alpha, got {alpha}")
        self.alpha, self.per = alpha, per

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        main = batch.main
        salts = (seed, MIXED, progress.step)
        rows = main.index if self.per == "sample" else main.index.new_zeros(1)
        share = beta(rows, self.alpha, *salts).expand(len(main))
        return (batch.with_view(MIXED, mixed(main, shuffled(main.index, *salts), share)),)

    def forward(self, model: nn.Module, batch: Batch, view: str) -> Answer:
        seen = batch.views[view]
        if "partner_input_ids" not in seen.extras:
            return super().forward(model, batch, view)
        extras, place = seen.extras, place_of(model)
        other = place.embedded({name: extras[f"partner_{name}"] for name in PER_TOKEN if f"partner_{name}" in extras})
        share = extras["share"]

        def mix(own: Tensor) -> Tensor:
            weights = share, 1 - share
            masks = extras["own_mask"], extras["partner_mask"]
            one, two = (w.to(own.dtype)[:, None] * m.to(own.dtype) for w, m in zip(weights, masks, strict=True))
            return one[:, :, None] * own + two[:, :, None] * other

        with place.changed(mix):
            return logits_of(model(**accepted(model, seen.input)))


def mixed(view: View, partner: Tensor, share: Tensor) -> View:
    """Rows of a view mixed with its rows `partner` `[B]`, `share` `[B]` of them their own."""
    given = view.input
    if not isinstance(given, Mapping) or "input_ids" not in given:
        raise ValueError(
            "mixkd mixes the word embeddings of tokenised text, and the input has no input_ids; for images write "
            "mixup_kd or cutmix_kd"
        )
    ids = given["input_ids"]
    here = given["attention_mask"].bool() if "attention_mask" in given else torch.ones_like(ids, dtype=torch.bool)
    there = here[partner]
    counts, counts_too = here & (share > 0)[:, None], there & (share < 1)[:, None]
    inputs: dict[str, Tensor] = {**given, "attention_mask": counts | counts_too}
    extras: dict[str, Any] = {**view.extras, "share": share, "own_mask": here, "partner_mask": there}
    for name in given.keys() & {*PER_TOKEN}:
        own, other = given[name], given[name][partner]
        padding = torch.where(here, other, own)  # for places where neither text counts
        inputs[name] = torch.where(counts, own, torch.where(counts_too, other, padding))
        extras[f"partner_{name}"] = other
    label = view.label
    if label is not None and label.is_floating_point():
        label = (share * label + (1 - share) * label[partner]).to(label.dtype)
    elif label is not None:
        extras["other"] = label[partner]
    return View(inputs, view.index, label, view.mask, extras)


@dataclass(frozen=True)
class Place:
    """Where a network's embeddings are summed and not yet normalised.

    `owner` makes embeddings of ids; with a `norm` inside of it, that one's input is the place, else `owner`'s output.
    """

    owner: nn.Module
    norm: nn.Module | None

    def embedded(self, given: Mapping[str, Tensor]) -> Tensor:
        """`[B, L, D]`, of a text alone: its `input_ids` and what else the owner takes."""
        if self.norm is None:
            return self.owner(given["input_ids"])
        seen: list[Tensor] = []

        def look(value: Tensor) -> Tensor:
            seen.append(value)
            return value

        taken = taken_by(self.owner.forward)
        with self.changed(look):
            self.owner(**{name: value for name, value in given.items() if taken is None or name in taken})
        return seen[0]

    @contextmanager
    def changed(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside, what is at the place is changed on its way."""
        if self.norm is None:
            handle = self.owner.register_forward_hook(lambda module, args, result: change(result))
        else:
            handle = self.norm.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))
        try:
            yield
        finally:
            handle.remove()


def place_of(model: nn.Module) -> Place:
    """An embeddings module with one norm (BERT, RoBERTa, ALBERT, ELECTRA, DistilBERT, DeBERTa, ModernBERT …), or the
    token embedding itself where the network has no embedding of positions (Llama, Qwen …).

    Raises:
        ValueError: a network that shows no token embedding, or that adds positions elsewhere (GPT-2).
    """
    show = getattr(model, "get_input_embeddings", None)
    if show is None:
        why = "a network that is compiled" if not isinstance(model, nn.Module) else type(model).__name__
        raise ValueError(
            f"mixed embeddings: {why} has no get_input_embeddings(), so nobody knows where its embeddings are; give a "
            "network of transformers, and a precision without -compile"
        )
    token = show()
    owner = next(module for module in model.modules() if any(child is token for child in module.children()))
    norms = [child for child in owner.children() if "norm" in type(child).__name__.lower()]
    layers = any(isinstance(module, nn.ModuleList) for module in owner.modules())
    if not layers and len(norms) == 1:
        return Place(owner, norms[0])
    if sum(isinstance(child, nn.Embedding) for child in owner.children()) == 1:
        return Place(token, None)
    raise ValueError(
        f"mixed embeddings: {type(model).__name__} adds its embeddings up outside of a module of their own, so nobody "
        "knows where to mix them; take an encoder (BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, ModernBERT …), or a "
        "network without embeddings of positions"
    )
