"""CKD: what two networks, or a network and the labels, say about a comparison (Comparative Knowledge Distillation)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.functional import at_least_float32, forward_kl, same_classes
from potstill.types import Objective

LOSSES = ("mse", "kl")


class CKD(Objective):
    r"""$\frac1K \|\Delta_s - \Delta_t\|^2$ for comparisons $\Delta$ of logits; with `loss="kl"`
    $T^2 KL(softmax(\Delta_t/T) \| softmax(\Delta_s/T))$, which is KD's loss on comparisons.

    Shapes: comparisons `[B, K]` on both sides, result `[B]`. The scheme `ckd` makes the comparisons, and says whose
    defaults these are. Raises ValueError for an unknown loss and for two networks with different numbers of classes.

    >>> import torch
    >>> CKD()(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([2.])
    """

    part_of = "the scheme ckd, which makes the comparisons"
    matches = "logits"
    paper = (
        "Wilf, Xu, Liang, Obolenskiy, Fried, Morency: Comparative Knowledge Distillation. WACV 2025. arXiv:2311.02253"
    )

    def __init__(self, loss: str = "mse", temperature: float = 4.0):
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"ckd: unknown loss {loss!r}; expected one of {', '.join(LOSSES)}")
        self.loss, self.temperature = loss, temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if teacher is not None:
            same_classes("ckd", student, teacher)
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        if self.loss == "kl":
            return forward_kl(student, teacher, self.temperature) * self.temperature**2
        return (at_least_float32(student) - at_least_float32(teacher)).square().mean(1)


class CKDLabels(CKD):
    """The same with `difference`, the comparison of the labels as one-hot rows `[B, K]`, in place of the teacher's."""

    needs = ("difference",)
    default_taps = ("output", None)
    zero_at_match = False

    def forward(
        self, student: Float[Tensor, "B K"], teacher: None, *, difference: Float[Tensor, "B K"]
    ) -> Float[Tensor, "B"]:
        return super().forward(student, difference)
