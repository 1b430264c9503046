"""Losses over a large vocabulary, from hidden states and heads: `[tokens, V]` never exists as a whole.

A loss whose units read their own row of logits alone (`Objective.lazy`) is summed in pieces. For some tokens at a time
the logits of both sides are made, the loss is differentiated there, and its gradient is carried into the hidden states
and the student's head at once; the logits are then forgotten. So the gradient is ready when the loss is, and nothing is
computed twice. Letters in shapes: N tokens, D width (each side has its own), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.batch import Answer, LazyLogits, TopLogits
from potstill.functional import at_least_float32, full_precision
from potstill.types import Objective

LOGITS = 2**25
"""The most logits of one side that exist at once (128 MiB in float32): enough rows for fast matrix products."""
TEMPORARIES = 2**21
"""The most logits that the formula sees at once: it keeps about ten tensors of this size (8 MiB each)."""


def weighted_sum(
    objective: Objective,
    student: LazyLogits,
    teacher: Answer | None,
    unit_weight: Tensor,
    extras: Mapping[str, Tensor],
) -> Tensor:
    """$\\sum_u w_u \\, loss_u$ over all units; its gradient is computed now, and handed over by `backward`, once.

    `unit_weight` (mask / global count) and every extra have one entry per unit, the leading shape of the logits.
    Units of weight 0 do not count. The right side gets no gradient; it may be `TopLogits`, for an objective that takes
    them. Matrix products run in the dtype of the hidden states, as a dense head's would; the formula, sums and the
    head's gradient in at least float32.

    Raises ValueError for an extra of another shape, and where the vocabularies differ.
    """
    units = student.shape[:-1]
    for name, value in {"unit_weight": unit_weight, **extras}.items():
        if tuple(value.shape) != units:
            raise ValueError(
                f"{type(objective).__name__}: {name!r} has shape {list(value.shape)}, expected one entry for each of "
                f"the units {list(units)} of the student's LazyLogits"
            )
    if teacher is not None and tuple(teacher.shape) != student.shape:
        raise ValueError(
            f"{type(objective).__name__}: the student's logits would have shape {list(student.shape)}, the teacher's "
            f"{list(teacher.shape)}; expected the same tokens and the same vocabulary"
        )
    flat = {name: value.flatten() for name, value in extras.items()}
    work = _Work(objective, teacher, unit_weight.flatten(), flat, torch.is_grad_enabled())
    with full_precision(student.hidden):
        return _WeightedSum.apply(student.hidden, student.weight, student.bias, work)


@dataclass(frozen=True)
class _Work:
    """What the sum needs beside the student's tensors, by unit."""

    objective: Objective
    teacher: Answer | None
    weights: Tensor
    extras: Mapping[str, Tensor]
    train: bool

    def differentiate(self, logits: Tensor, teacher: Tensor | TopLogits | None, first: int) -> Tensor:
        """The sum over some tokens, from number `first` on. If `train`, the logits are overwritten by its gradient."""
        total = torch.zeros((), dtype=logits.dtype, device=logits.device)
        for some in _slices(len(logits), TEMPORARIES // logits.shape[1]):
            rows = slice(first + some.start, first + some.stop)
            weights = self.weights[rows].to(logits.dtype)
            piece = logits[some].detach().requires_grad_(self.train)
            with torch.set_grad_enabled(self.train):
                extras = {name: value[rows] for name, value in self.extras.items()}
                losses = self.objective(piece, None if teacher is None else teacher[some], **extras)
                # As in `reduce`: what does not count is left out before it is weighed, for it may not be finite.
                loss = (torch.where(weights != 0, losses, 0) * weights).sum()
            total += loss.detach()
            if self.train:
                logits[some] = torch.autograd.grad(loss, piece)[0]
        return total


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
        wanted = [needed and work.train for needed in ctx.needs_input_grad[:3]]
        work = replace(work, train=any(wanted))
        head = LazyLogits(hidden.flatten(0, -2), weight, bias).cast()
        teacher = _Rows(work.teacher)
        for_hidden = torch.empty_like(head.hidden) if wanted[0] else None
        # Sums over many tokens, of values that bfloat16 would swallow.
        for_weight = torch.zeros_like(weight, dtype=_wide(weight)) if wanted[1] else None
        for_bias = None if bias is None or not wanted[2] else torch.zeros_like(bias, dtype=_wide(bias))
        total = torch.zeros((), dtype=_wide(hidden), device=hidden.device)

        def carry(tokens: slice) -> None:  # a function, so that its logits are gone before the next are made
            logits, mine = at_least_float32(head.rows(tokens)), head.hidden[tokens]
            total.add_(work.differentiate(logits, teacher(tokens), tokens.start))
            if for_hidden is not None:
                torch.mm(logits.to(mine.dtype), head.weight, out=for_hidden[tokens])
            if for_weight is not None:
                for_weight.addmm_(logits.T.to(for_weight.dtype), mine.to(for_weight.dtype))
            if for_bias is not None:
                for_bias.add_(logits.sum(0))

        for tokens in _slices(len(head.hidden), LOGITS // len(weight)):
            carry(tokens)
        ctx.ready = (None if for_hidden is None else for_hidden.view_as(hidden), for_weight, for_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.ready is None:
            raise RuntimeError(
                "a loss on LazyLogits was differentiated twice: its gradient is handed over once, so add up the losses "
                "and call backward() on the sum"
            )
        ready, ctx.ready = ctx.ready, None  # scaled in place: a copy of the head's gradient may be half a gigabyte
        return (*(None if g is None else g.mul_(scale).to(d) for g, d in zip(ready, ctx.dtypes, strict=True)), None)


class _Rows:
    """Rows of a side's logits, without gradient: made when asked for, or there already, or the largest of them."""

    def __init__(self, side: Answer | None):
        self.lazy = replace(side, hidden=side.hidden.flatten(0, -2)).cast() if isinstance(side, LazyLogits) else None
        self.ready: Tensor | TopLogits | None = None
        if isinstance(side, TopLogits):
            self.ready = side.detach().flat()
        elif isinstance(side, Tensor):
            self.ready = side.detach().flatten(0, -2)

    def __call__(self, tokens: slice) -> Tensor | TopLogits | None:
        if self.lazy is not None:
            return self.lazy.rows(tokens)
        return None if self.ready is None else self.ready[tokens]


def _slices(rows: int, most: int) -> Iterator[slice]:
    most = max(1, most)
    for start in range(0, rows, most):
        yield slice(start, min(start + most, rows))


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)
