"""NST: neuron selectivity transfer (Huang and Wang 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from potstill.connectors import layer_shapes, to_smaller
from potstill.functional import as_tuple, at_least_float32, full_precision
from potstill.types import Objective


class NST(Objective):
    r"""What channels respond to must be distributed alike. With $s_i, t_j \in R^{HW}$ the L2-normalised channels of a
    sample's maps, the maximum mean discrepancy under the kernel $k(a, b) = \langle a, b \rangle^2$, summed over layers:

    $$L = \frac{1}{C_t^2} \sum_{ij} k(t_i, t_j) + \frac{1}{C_s^2} \sum_{ij} k(s_i, s_j)
      - \frac{2}{C_s C_t} \sum_{ij} k(s_i, t_j) = \Big\| \frac{S^T S}{C_s} - \frac{T^T T}{C_t} \Big\|_F^2.$$

    Both forms are products of matrices; each layer takes the cheaper, by its number of channels and pixels.

    Shapes: one feature map `[B, C, H, W]` a layer on both sides, as many layers on each; result `[B]`. Channels need
    not match. Where sizes differ, the larger map is average-pooled to the smaller, not only to squares.

    Defaults: every stage and weight 50, RepDistiller's. Raises ValueError for other taps than feature maps, or unequal
    numbers of them.

    Where we differ: nothing; the golden pins RepDistiller's value and gradient.

    >>> import torch
    >>> maps = torch.randn(2, 3, 1, 2)
    >>> NST()(maps, 2 * maps)
    tensor([0., 0.])
    """

    default_weight = 50.0
    default_taps = ("stages", "stages")
    matches = "features"
    weight_from = "RepDistiller's command"
    paper = "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017. arXiv:1707.01219"

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        layer_shapes("nst", student, teacher)
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        losses = []
        for pair in zip(as_tuple(student), as_tuple(teacher), strict=True):
            sides = (F.normalize(at_least_float32(maps).flatten(2), dim=2) for maps in to_smaller(*pair))
            losses.append(discrepancy(*sides))
        return torch.stack(losses).sum(0)


def discrepancy(student: Float[Tensor, "B C_s HW"], teacher: Float[Tensor, "B C_t HW"]) -> Float[Tensor, "B"]:
    """Squared maximum mean discrepancy between the channels of both sides."""
    (ours, pixels), theirs = student.shape[1:], teacher.shape[1]
    with full_precision(student):
        if pixels * (ours + theirs) <= ours * ours + theirs * theirs + ours * theirs:
            difference = student.mT @ student / ours - teacher.mT @ teacher / theirs
            return difference.square().sum((1, 2))
        pairs = (student, student), (teacher, teacher), (student, teacher)
        same, other, mixed = ((one @ two.mT).square().mean((1, 2)) for one, two in pairs)
        return same + other - 2 * mixed
