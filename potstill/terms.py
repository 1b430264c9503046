"""Wiring of one loss: two addresses, a weight, and the one reduction that all losses share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from potstill.hashing import hash_index, hash_int
from potstill.lazy import weighted_sum
from potstill.schedules import Schedule, at
from potstill.types import MAIN, Answer, Batch, LazyLogits, Objective, Outputs, Progress, Side, SourceOutputs, View

DEFAULT = "default"
"""An address left to the objective's `default_taps`."""


@dataclass(frozen=True)
class Spec:
    """What to build, and with which keywords; hashable, printable, built after the probe.

    >>> Spec.of(dict, a=1).build()
    {'a': 1}
    """

    target: Any
    kwargs: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, target: Any, **kwargs: Any) -> Spec:
        return cls(target, tuple(kwargs.items()))

    def build(self, *args: Any) -> Any:
        return self.target(*args, **dict(self.kwargs))


@dataclass(frozen=True)
class Address:
    """`"source:tap@view"`, e.g. `teacher:embedding@main`; `stage1,stage2` names several taps.

    >>> Address.parse("stage1,stage2@crop", "student")
    Address(source='student', taps=('stage1', 'stage2'), view='crop')
    """

    source: str
    taps: tuple[str, ...]
    view: str = MAIN

    @classmethod
    def parse(cls, text: str, source: str) -> Address:
        text, _, view = text.partition("@")
        before, colon, taps = text.rpartition(":")
        return cls(before if colon else source, tuple(t.strip() for t in taps.split(",")), view or MAIN)

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.source}:{','.join(self.taps)}@{self.view}"

    def read(self, outputs: SourceOutputs) -> Side:
        found: Outputs = outputs[self.source][self.view]
        values = tuple(found.get(tap) for tap in self.taps)
        return values[0] if len(values) == 1 else values


@dataclass(frozen=True)
class Term:
    """One loss of a run. The left address receives the gradient, the right one is detached.

    `objective` is a class or `Spec` (sized after the probe) or a ready objective. An address of None means that the
    loss has no such side; left out, it is the objective's own default. `weight` is a number or a schedule. `init`
    hands over what an earlier stage has learnt: pairs of a submodule of this objective and where its weights come
    from, `"<term>.<submodule>"`.
    """

    objective: type[Objective] | Spec | Objective
    student: str | None = DEFAULT
    teacher: str | None = DEFAULT
    weight: float | Schedule = 1.0
    name: str = ""
    init: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> type[Objective]:
        if isinstance(self.objective, Objective):
            return type(self.objective)
        return self.objective.target if isinstance(self.objective, Spec) else self.objective

    @property
    def label(self) -> str:
        return self.name or self.kind.__name__.lower()

    @property
    def addresses(self) -> tuple[Address | None, Address | None]:
        sides = []
        for side, written, default in zip(
            ("student", "teacher"), (self.student, self.teacher), self.kind.default_taps, strict=True
        ):
            text = default if written == DEFAULT else written
            sides.append(None if text is None else Address.parse(text, side))
        return sides[0], sides[1]


class Wired(nn.Module):
    """A term with its objective built and its addresses resolved."""

    def __init__(
        self,
        name: str,
        objective: Objective,
        left: Address | None,
        right: Address | None,
        weight: float | Schedule,
    ):
        super().__init__()
        self.name, self.left, self.right, self.weight = name, left, right, weight
        self.objective = objective
        self.key = hash_int(name)

    @property
    def view(self) -> str:
        """The view that extras and mask come from: the left address's."""
        side = self.left or self.right
        return side.view if side else MAIN

    def sides(self, outputs: SourceOutputs) -> tuple[Side | None, Side | None]:
        left = None if self.left is None else self.left.read(outputs)
        right = None if self.right is None else _detached(self.right.read(outputs))
        return left, right

    def extras(self, batch: Batch, mask: Tensor | None, progress: Progress, seed: int) -> dict[str, Tensor]:
        view = batch.views[self.view]
        found = {}
        for need in self.objective.needs:
            if need == "draw":
                found[need] = hash_index(view.index, seed, "draw", progress.step, self.key)
            elif need == "mask":
                found[need] = torch.ones_like(view.index, dtype=torch.bool) if mask is None else mask
            else:
                found[need] = self._extra(view, need)
        return found

    def _extra(self, view: View, need: str) -> Tensor:
        parts = view.input if isinstance(view.input, Mapping) else {}  # of a text: its attention mask, say
        value = getattr(view, need, None) if need in ("label", "index") else view.extras.get(need, parts.get(need))
        if value is None:
            given = ["index", *([] if view.label is None else ["label"]), *view.extras, *parts]
            raise ValueError(
                f"term {self.name!r} needs {need!r}, which the data does not give for view {self.view!r}; it gives "
                f"{', '.join(sorted(given))}"
            )
        return value

    def forward(
        self,
        outputs: SourceOutputs,
        batch: Batch,
        mask: Tensor | None,
        count: Tensor,
        progress: Progress,
        seed: int,
    ) -> Tensor:
        """The term's share of its mean over the global batch, not yet weighted.

        `count` is `units(mask, rows)` of the *global* batch, so that shares of any split add up to the mean.
        """
        student, teacher = self.sides(outputs)
        extras = self.extras(batch, mask, progress, seed)
        if isinstance(student, LazyLogits):
            weights = unit_weights(student.shape[:-1], mask, count, student.hidden)
            return weighted_sum(self.objective, student, cast(Answer | None, teacher), weights, extras)
        if isinstance(teacher, LazyLogits):  # the student's logits exist whole, so the teacher's may too
            teacher = teacher.dense()
        losses = self.objective(student, teacher, **extras)
        return reduce(losses, mask, count, whole=self.objective.scope == "batch" and losses.numel() == 1)

    def weighted(self, progress: Progress) -> float:
        return float(at(self.weight, progress))


def units(mask: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """How many units count: `[per sample, per position]`, on the device, so that ranks can add theirs up."""
    if mask is None:
        return torch.full((2,), float(rows), device=device, dtype=torch.float64)
    per_sample = mask.flatten(1).any(1) if mask.ndim > 1 else mask
    return torch.stack([per_sample.sum(), mask.sum()]).to(torch.float64)


def reduce(losses: Tensor, mask: Tensor | None, count: Tensor, whole: bool = False) -> Tensor:
    """Sum of the losses that count, divided by the global count. An empty mask gives an attached zero.

    `losses` `[B]` or `[B, T]`; `mask` of the same shape, or `[B, T]` for losses `[B]` (a sample counts when any of its
    positions does), or None. `whole`: one unit stands for the whole global batch and is passed through.
    """
    if whole:
        return losses.sum()
    mask, count = _counted(losses.shape, mask, count)
    if mask is not None:
        losses = torch.where(mask, losses, torch.zeros((), dtype=losses.dtype, device=losses.device))
    return losses.sum() / count.to(losses.dtype)


def unit_weights(shape: tuple[int, ...], mask: Tensor | None, count: Tensor, like: Tensor) -> Tensor:
    """Mask / global count: the weight with which `reduce` would count each unit; at least float32."""
    mask, count = _counted(shape, mask, count)
    dtype = torch.promote_types(like.dtype, torch.float32)
    kept = torch.ones(shape, dtype=dtype, device=like.device) if mask is None else mask.to(dtype)
    return kept / count.to(dtype)


def _counted(shape: tuple[int, ...], mask: Tensor | None, count: Tensor) -> tuple[Tensor | None, Tensor]:
    """Which of the units of a micro-batch count (None: all), and how many do in the global batch."""
    if mask is None:
        return None, count[0] * prod(shape[1:])
    if len(shape) == 1 and mask.ndim > 1:
        mask, count = mask.flatten(1).any(1), count[:1]
    if mask.shape != shape:
        raise ValueError(f"a mask of shape {list(mask.shape)} does not fit losses of shape {list(shape)}")
    return mask, count[-1].clamp(min=1)


def _detached(value: Side) -> Side:
    return tuple(v.detach() for v in value) if isinstance(value, tuple) else value.detach()


def plan(terms: list[Wired]) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Which taps every (source, view) must give for these terms."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for term in terms:
        for side in (term.left, term.right):
            if side is not None:
                taps = wanted.setdefault((side.source, side.view), [])
                taps.extend(tap for tap in side.taps if tap != "output" and tap not in taps)
    return {key: tuple(taps) for key, taps in wanted.items()}
