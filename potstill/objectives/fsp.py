"""FSP: the flow of the solution procedure (Yim et al. 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.connectors import layer_shapes, to_smaller
from potstill.functional import at_least_float32, full_precision, mean_of_rest
from potstill.stages import Stage
from potstill.types import Objective


class FSP(Objective):
    r"""How features change from one layer to the next must agree. With $F_l \in R^{C_l \times HW}$,

    $$L = \sum_l \frac{1}{C_l C_{l+1}} \| G_l^s - G_l^t \|_F^2, \quad G_l = \frac{1}{HW} F_{l+1} F_l^T.$$

    The method has two stages: this loss alone sets up the student's layers, for 30 of the run's 240 epochs in front of
    them; then the student learns from labels (and from whatever else is composed with it), without this loss.

    Shapes: feature maps `[B, C_l, H, W]` of at least two layers, with equal channels on both sides; result `[B]`.
    Sizes need not match between the sides; within one, the larger of two consecutive maps is average-pooled to the
    smaller, not only to squares.

    Defaults: the stem and every stage, weight 1, RepDistiller's. (Weight 50 in its command is multiplied by zero in
    its second stage.) Raises ValueError for unequal channels, fewer than two layers, or other taps than feature maps.

    Where we differ: nothing in the loss; the golden pins RepDistiller's value and gradient. The first stage's share of
    a run of another length is ours.

    >>> import torch
    >>> maps = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)
    >>> FSP()(maps, maps)
    tensor([0., 0.])
    """

    default_taps = ("stem,stages", "stem,stages")
    matches = "relations"
    weight_from = "RepDistiller's code"
    paper = (
        "Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer "
        "Learning. CVPR 2017."
    )

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        shapes = layer_shapes("fsp", student, teacher)
        ours, theirs = ([shape[1] for shape in side] for side in zip(*shapes, strict=True))
        if ours != theirs:
            raise ValueError(
                f"fsp: the student's layers have {ours} channels and the teacher's {theirs}; it compares products of "
                "channels, so they must be equal. at, nst and sp do without, vid brings a regressor"
            )
        if len(shapes) < 2:
            raise ValueError("fsp: it needs at least two layers on each side, such as stem,stage1,stage2,stage3")
        return cls(**kw)

    @classmethod
    def expand(cls, term):
        return (Stage(term.label, (term,), share=1 / 8),), ()

    def forward(
        self, student: tuple[Float[Tensor, "B _ _ _"], ...], teacher: tuple[Float[Tensor, "B _ _ _"], ...]
    ) -> Float[Tensor, "B"]:
        pairs = zip(flows(student), flows(teacher), strict=True)
        return torch.stack([mean_of_rest((ours - theirs).square()) for ours, theirs in pairs]).sum(0)


def flows(maps: tuple[Float[Tensor, "B _ _ _"], ...]) -> list[Float[Tensor, "B _ _"]]:
    """The matrix $G_l$ of each two consecutive maps."""
    found = []
    for pair in zip(maps, maps[1:], strict=False):
        bottom, top = (at_least_float32(features).flatten(2) for features in to_smaller(*pair))
        with full_precision(bottom):
            found.append(top @ bottom.mT / bottom.shape[2])
    return found
