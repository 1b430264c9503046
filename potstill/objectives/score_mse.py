"""Squared error on labels that are numbers: regression's counterpart of cross-entropy."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.functional import at_least_float32
from potstill.types import Objective


class ScoreMSE(Objective):
    r"""$(z_s - y)^2$ for each sample; it has no teacher side.

    Shapes: student answer `[B, 1]` or `[B]`, `label` floating point `[B]`, result `[B]`.

    Raises:
        ValueError: labels that are classes, or a student with several outputs.
    """

    needs = ("label",)
    zero_at_match = False
    default_taps = ("output", None)
    paper_terms = "ce:0+score_mse:1"
    matches = "labels"
    wants = "texts with scores as labels"
    weight_from = "ours"

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if data.labels is not None and not data.labels.is_floating_point():
            raise ValueError("score_mse: the labels are classes and not scores; write ce instead")
        if student.ndim > 2 or (student.ndim == 2 and student.shape[1] != 1):
            raise ValueError(
                f"score_mse: expected one output for a score, [B, 1], and the student answers {list(student.shape)}; "
                "build it with num_labels=1"
            )
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B *one"], teacher: None, *, label: Float[Tensor, "B"]) -> Tensor:
        answer = at_least_float32(student).view_as(label)
        return (answer - label.to(answer.dtype)).square()
