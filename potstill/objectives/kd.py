"""KD: soft targets (Hinton et al. 2015)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.functional import kl, log_laws, same_classes
from potstill.types import Objective, TopLogits


class KD(Objective):
    r"""$T^2 \cdot KL(softmax(z_t/T) \| softmax(z_s/T))$, summed over classes, one value per unit.

    Shapes: `[B, K]` logits on both sides -> `[B]`; `[B, T, V]` -> `[B, T]`. A teacher may be known by its k largest
    probabilities at `temperature` (TopLogits): then it is a sum over these classes and one for all others.

    Defaults: `temperature=4` and, as a bare method name, 0.1 · CE + 0.9 · KD: RepDistiller's values. The factor
    $T^2$ keeps the gradient's size when the temperature changes. Raises ValueError for a temperature that is not
    positive, or when the two networks have different numbers of classes.

    The goldens pin RepDistiller's value and gradient.

    >>> import torch
    >>> KD()(torch.zeros(2, 10), torch.zeros(2, 10))
    tensor([0., 0.])
    """

    paper_terms = "ce:0.1+kd:0.9"
    matches = "logits"
    lazy = True
    tail_spread = True
    takes_top = True
    weight_from = "RepDistiller's command"
    paper = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. 2015. arXiv:1503.02531"

    def __init__(self, temperature: float = 4.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"kd: temperature must be positive, got {temperature}")
        self.temperature = temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes("kd", student, teacher)
        return cls(**kw)

    def forward(
        self, student: Float[Tensor, "*B K"], teacher: Float[Tensor, "*B K"] | TopLogits
    ) -> Float[Tensor, "*B"]:
        return kl(*log_laws(student, teacher, self.temperature)) * self.temperature**2
