"""Matching logits (Ba and Caruana 2014, Kim et al. 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.functional import at_least_float32, same_classes
from potstill.types import Objective


class LogitMSE(Objective):
    r"""$\frac{1}{K} \sum_k (z^s_k - z^t_k)^2$: logits as they are, without a softmax; one value per unit.

    The answer may be a single number (K = 1): a regression.

    Shapes: `[B, K]` on both sides -> `[B]`; `[B, T, V]` -> `[B, T]`. Raises ValueError when the two networks have
    different numbers of classes.

    Where we differ: the mean over the classes is that of `torch.nn.MSELoss`, the papers' sum is K times it.

    >>> import torch
    >>> LogitMSE()(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
    tensor([5.])
    """

    matches = "logits"
    weight_from = "ours"
    paper = (
        "Kim, Oh, Kim, Cho, Yun: Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge "
        "Distillation. IJCAI 2021. arXiv:2105.08919"
    )

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes("logit_mse", student, teacher)
        return cls(**kw)

    def forward(self, student: Float[Tensor, "*B K"], teacher: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
        return (at_least_float32(student) - at_least_float32(teacher)).square().mean(-1)
