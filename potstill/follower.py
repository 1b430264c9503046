"""A teacher that is the moving average of its student."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from potstill.sources import Network


class Follower(Network):
    """The student's weights, averaged over the steps: $\\bar w \\leftarrow d_t \\bar w + (1 - d_t) w$.

    $d_t = \\min(decay, 1 - 1/(t + 1))$ at step t, as in the authors' code of Mean Teacher: the first steps forget the
    initial weights. Batch-norm statistics and other buffers are the student's. It answers in evaluation mode and gets
    no gradient. It moves after the optimizer, and is checkpointed.
    """

    def __init__(self, student: Network, decay: float):
        super().__init__(
            copy.deepcopy(student.module),
            trained=False,
            preprocess=student.preprocess,
            names=student.names,
            precision=student.precision,
        )
        self.student, self.decay, self.steps = student, decay, 0

    def follow(self) -> None:
        keep = min(self.decay, 1 - 1 / (self.steps + 1))
        self.steps += 1
        with torch.no_grad():
            mine: list[Tensor] = list(self.module.parameters())
            theirs: list[Tensor] = list(self.student.module.parameters())
            torch._foreach_lerp_(mine, theirs, 1 - keep)
            for own, other in zip(self.module.buffers(), self.student.module.buffers(), strict=True):
                own.copy_(other)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "network": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.module.load_state_dict(state["network"])
