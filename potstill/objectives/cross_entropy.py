"""Cross-entropy on the labels: a term like any other."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.functional import at_least_float32
from potstill.types import Objective


class CrossEntropy(Objective):
    r"""$-\log softmax(z_s)_y$ for each unit; it has no teacher side.

    Shapes: student logits `[B, K]` with `label [B]`, or `[B, T, V]` with `label [B, T]`, int64 in [0, K); result
    `[B]` or `[B, T]`. Raises ValueError for labels that are scores and not classes.
    """

    needs = ("label",)
    zero_at_match = False
    default_taps = ("output", None)
    paper_terms = "ce:1"
    matches = "labels"
    lazy = True
    weight_from = "RepDistiller's command"

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if data.labels is not None and data.labels.is_floating_point():
            raise ValueError("ce: the labels are scores and not classes; write ce:0+score_mse:1 instead")
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B *T K"], teacher: None, *, label: Int64[Tensor, "B *T"]) -> Tensor:
        logits = at_least_float32(student)
        return F.cross_entropy(logits.flatten(0, -2), label.flatten(), reduction="none").view_as(label)
