"""Which of a student's tokens a teacher lets stand: SKD's test, by rank or by nucleus.

B rows, g tokens drafted at once, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.language.generation import Sampling, warped

AcceptOn = Literal["raw", "warped"]


@dataclass(frozen=True)
class Acceptance:
    """Which of the student's tokens the teacher lets stand."""

    k: int = 25
    """The teacher's `k` most probable tokens: all of them is on-policy sampling, 0 is sampling from the teacher."""
    on: AcceptOn = "raw"
    """Rank by the teacher's logits, or (the release) by those of its sampler: what that cuts off is never accepted."""
    teacher_p: float | None = None
    """Instead of `k`: the teacher's nucleus, the smallest set of most probable tokens with this mass."""
    decay: int = 0
    """K falls linearly, down to 1, over so many tokens of a response; 0 keeps it."""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k must be at least 0 (0 samples from the teacher), got {self.k}")
        if self.on not in get_args(AcceptOn):
            raise ValueError(f"accept_on={self.on!r} is unknown; {did_you_mean(str(self.on), get_args(AcceptOn))}")
        if self.teacher_p is not None and not 0 < self.teacher_p <= 1:
            raise ValueError(f"teacher_p must lie in (0, 1], got {self.teacher_p}")
        if self.decay < 0:
            raise ValueError(f"decay must be at least 0 tokens (0 keeps k), got {self.decay}")
        if self.decay and (self.teacher_p is not None or self.k == 0):
            raise ValueError("decay lowers k within a response: it does nothing beside teacher_p or k=0")

    def __call__(self, logits: Tensor, tokens: Tensor, place: Tensor, sampling: Sampling) -> Tensor:
        """Whether each token `[B, g]` stands, given the teacher's logits `[B, g, V]` and its place in the response.

        A token's rank is the number of tokens that are more probable, so what ties with the k-th is accepted too; no
        sorting.
        """
        if self.on == "warped":
            logits = warped(logits, sampling)
        own = logits.gather(-1, tokens[..., None])
        if self.teacher_p is not None:
            above = (logits > own) * logits.softmax(-1)
            inside = above.sum(-1) < self.teacher_p
        else:
            inside = (logits > own).sum(-1) < self._most(place)
        return inside & (own[..., 0] > -torch.inf) if self.on == "warped" else inside

    def _most(self, place: Tensor) -> Tensor | int:
        if not self.decay:
            return self.k
        every, by = max(self.decay // self.k, 1), -(-self.k // self.decay)
        return (self.k - by * (place // every)).clamp(min=1)
