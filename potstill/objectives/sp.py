"""SP: similarity-preserving distillation (Tung and Mori 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from potstill.functional import as_tuple, gram
from potstill.types import Objective


class SP(Objective):
    r"""Samples that look alike to the teacher must look alike to the student:

    $$L_i = \frac{1}{B} \sum_j (\hat G^s_{ij} - \hat G^t_{ij})^2, \quad \hat G_i = G_i / \| G_i \|_2, \quad G = X X^T,$$

    with $X$ the flattened activations, one row a sample; summed over layers where an address names several. The mean
    over samples is the paper's $\| \hat G^s - \hat G^t \|_F^2 / B^2$.

    Shapes: any activations `[B, ...]` on both sides, of any sizes; result `[B]`. Memory grows as B².

    Defaults: the last feature map and weight 3000, RepDistiller's. Raises ValueError for unequal numbers of taps.

    Where we differ: nothing; the golden pins RepDistiller's value and gradient.

    >>> import torch
    >>> SP()(torch.eye(3), torch.eye(3))
    tensor([0., 0., 0.])
    """

    scope = "batch"
    default_weight = 3000.0
    default_taps = ("last_map", "last_map")
    matches = "relations"
    weight_from = "RepDistiller's command"
    paper = "Tung, Mori: Similarity-Preserving Knowledge Distillation. ICCV 2019. arXiv:1907.09682"

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        counts = [len(as_tuple(side)) for side in (student, teacher)]
        if counts[0] != counts[1]:
            raise ValueError(f"sp: the student gives {counts[0]} taps and the teacher {counts[1]}, expected pairs")
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "B ..."] | tuple[Float[Tensor, "B ..."], ...],
        teacher: Float[Tensor, "B ..."] | tuple[Float[Tensor, "B ..."], ...],
    ) -> Float[Tensor, "B"]:
        losses = []
        for pair in zip(as_tuple(student), as_tuple(teacher), strict=True):
            ours, theirs = (F.normalize(gram(rows), dim=1) for rows in pair)
            losses.append((ours - theirs).square().mean(1))
        return torch.stack(losses).sum(0)
