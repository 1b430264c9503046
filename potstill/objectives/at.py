"""AT: attention transfer (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.connectors import layer_shapes, to_smaller
from potstill.functional import as_tuple, attention_map, mean_of_rest
from potstill.types import Objective


class AT(Objective):
    r"""$\sum_l \frac{1}{HW} \| A(F_s^l) - A(F_t^l) \|_2^2$ per sample, with the attention map
    $A(F) = v / \| v \|_2$, $v = vec(\frac{1}{C} \sum_c F_c^p)$.

    Shapes: one feature map `[B, C, H, W]` a layer on both sides, as many layers on each; result `[B]`. Channels need
    not match. Where sizes differ, the larger map is average-pooled to the smaller, not only to squares.

    Defaults: `p=2`, every stage, and weight 1000: RepDistiller's. Raises ValueError for a p that is not a positive
    integer, other taps than feature maps, or unequal numbers of them.

    Where we differ: nothing. As in the authors' code an odd p keeps the sign of the activations, which the paper's
    $|F|^p$ drops; after a ReLU it is the same. Goldens `at` and `at_p4` pin RepDistiller's value and gradient.

    >>> import torch
    >>> maps = torch.randn(2, 3, 4, 4)
    >>> AT()(maps, 2 * maps)
    tensor([0., 0.])
    """

    default_weight = 1000.0
    default_taps = ("stages", "stages")
    matches = "features"
    weight_from = "RepDistiller's command"
    paper = "Zagoruyko, Komodakis: Paying More Attention to Attention. ICLR 2017. arXiv:1612.03928"

    def __init__(self, p: int = 2):
        super().__init__()
        if p < 1 or p != int(p):
            raise ValueError(f"at: p must be a positive integer, got {p}")
        self.p = int(p)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        layer_shapes("at", student, teacher)
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        losses = []
        for pair in zip(as_tuple(student), as_tuple(teacher), strict=True):
            ours, theirs = (attention_map(features, self.p) for features in to_smaller(*pair))
            losses.append(mean_of_rest((ours - theirs).square()))
        return torch.stack(losses).sum(0)
