"""DIST: knowledge distillation from a stronger teacher (Huang et al. 2022)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from potstill.functional import at_least_float32, same_classes
from potstill.types import Objective


class DIST(Objective):
    r"""Correlation instead of equality: within each sample over the classes, within each class over the samples.

    With $p = softmax(z / \tau)$ and Pearson's correlation $\rho$,

    $$L_i = \tau^2 \Big( \beta \, (1 - \rho(p^s_{i\cdot}, p^t_{i\cdot}))
      + \gamma \, \frac{1}{K} \sum_k (1 - \rho(p^s_{\cdot k}, p^t_{\cdot k})) \Big).$$

    The second part belongs to the whole batch and is the same for every sample.

    Shapes: logits `[B, K]` on both sides, or dense `[B, K, H, W]`, where every pixel is a sample -> `[B]`.

    Defaults: `beta=gamma=1`, `temperature=4` and weight 2 beside CE 1: the authors' for CIFAR-100 (ImageNet and
    segmentation: `temperature=1`). Raises ValueError for a temperature that is not positive, or for different numbers
    of classes.

    Where we differ: nothing; goldens `dist` and `dist_dense` (released without a temperature) pin value and gradient.
    The 1e-8 that the authors put beside the norms leaves a small loss at a match. Samples that a mask leaves out stay
    in the columns of the others.

    >>> import torch
    >>> DIST()(torch.eye(3), torch.eye(3)).shape
    torch.Size([3])
    """

    scope = "batch"
    zero_at_match = False
    default_weight = 2.0
    matches = "logits"
    weight_from = "the authors' code"
    paper = "Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS 2022. arXiv:2205.10536"

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"dist: temperature must be positive, got {temperature}")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes("dist", student, teacher, dim=1)
        if student.ndim not in (2, 4) or student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"dist: expected logits [B, K] or [B, K, H, W] of one size on both sides, got {list(student.shape)} "
                f"and {list(teacher.shape)}"
            )
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B K *HW"], teacher: Float[Tensor, "B K *HW"]) -> Float[Tensor, "B"]:
        p_s, p_t = ((at_least_float32(z) / self.temperature).softmax(1) for z in (student, teacher))
        inter = 1 - pearson(p_s, p_t, (1,))
        intra = 1 - pearson(p_s, p_t, (0, *range(2, p_s.ndim))).mean()
        return self.temperature**2 * (self.beta * inter.reshape(len(inter), -1).mean(1) + self.gamma * intra)


def pearson(x: Tensor, y: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pearson's correlation over `dims`; 0 where one side is constant (1e-8 beside the norms, as the authors')."""
    x, y = x - x.mean(dims, keepdim=True), y - y.mean(dims, keepdim=True)
    return (x * y).sum(dims) / (vector_norm(x, dim=dims) * vector_norm(y, dim=dims) + 1e-8)
