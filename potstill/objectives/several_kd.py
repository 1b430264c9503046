"""Soft targets of several teachers at once."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.functional import kl, log_probabilities, same_classes
from potstill.types import Objective


class SeveralKD(Objective):
    r"""$T^2 \sum_m KL(softmax(z_m/T) \| softmax(z_s/T))$ over M teachers; their mean instead of their sum with `mean`.

    The mean has the gradient of KD from the teachers' averaged probabilities.

    Shapes: student logits `[B, K]`, teachers' `[B, M, K]` -> `[B]`.

    Raises ValueError for a temperature that is not positive, and for different numbers of classes.

    >>> import torch
    >>> SeveralKD()(torch.zeros(2, 10), torch.zeros(2, 3, 10))
    tensor([0., 0.])
    """

    part_of = "dgkd and ces_kd, which bring teachers that answer together"
    matches = "logits"
    paper = (
        "Son, Na, Choi, Hwang: Densely Guided Knowledge Distillation using Multiple Teacher Assistants. ICCV 2021. "
        "arXiv:2009.08825"
    )
    zero_at_match = False
    """Its two sides have different shapes, so there is no equal teacher to be compared with."""

    def __init__(self, temperature: float = 4.0, mean: bool = False):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"several_kd: temperature must be positive, got {temperature}")
        self.temperature, self.mean = temperature, mean

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes("several_kd", student, teacher)
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B K"], teacher: Float[Tensor, "B M K"]) -> Float[Tensor, "B"]:
        own = log_probabilities(student, self.temperature)[:, None].expand(teacher.shape)
        each = kl(log_probabilities(teacher, self.temperature), own) * self.temperature**2
        return each.mean(1) if self.mean else each.sum(1)
