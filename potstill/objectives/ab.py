"""AB: activation boundaries (Heo et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import ConvRegressor, layer_shapes
from potstill.functional import as_tuple, at_least_float32
from potstill.stages import Stage
from potstill.types import Objective


class AB(Objective):
    r"""A neuron must be on where the teacher's is on, and off where it is off, by a margin $m$. Before activation,

    $$L = \frac{3}{1000} \sum_{l=1}^{n} 2^{l-n} \sum_{chw} \max(0,\ m - \sigma_{chw} \, r_l(F_s)_{chw})^2, \quad
      \sigma = +1 \text{ where } F_t > 0, \text{ else } -1,$$

    with $r_l$ a convolution and batch norm, or nothing where the shapes are equal. The method has two stages: this
    loss alone sets up the student's layers, for 30 of the run's 240 epochs in front of them; then the student learns
    from labels (and from whatever else is composed with it), without this loss.

    Shapes: one feature map `[B, C, H, W]` a layer on both sides, as many layers on each; result `[B]`.

    Defaults: every stage before activation, `margin=1`, weight 1, and the factors above: RepDistiller's. Raises
    ValueError when no convolution leads from one map size to the other (see `ConvRegressor`), for other taps than
    feature maps, or unequal numbers of them.

    Where we differ: nothing in the loss; the golden pins RepDistiller's value and gradient, connectors in training
    mode. The first stage's share of a run of another length is ours.
    """

    zero_at_match = False
    batch_statistics = True
    default_taps = ("stages.pre", "stages.pre")
    matches = "features"
    weight_from = "RepDistiller's code"
    paper = (
        "Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons. "
        "AAAI 2019. arXiv:1811.03233"
    )

    def __init__(
        self,
        student_shapes: list[tuple[int, ...]],
        teacher_shapes: list[tuple[int, ...]],
        margin: float = 1.0,
    ):
        super().__init__()
        if margin < 0:
            raise ValueError(f"ab: margin must not be negative, got {margin}")
        self.margin = margin
        self.connectors = nn.ModuleList(
            nn.Identity() if ours[1:] == theirs[1:] else ConvRegressor(ours, theirs, relu=False)
            for ours, theirs in zip(student_shapes, teacher_shapes, strict=True)
        )
        self.batch_statistics = any(isinstance(one, ConvRegressor) for one in self.connectors)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        shapes = layer_shapes("ab", student, teacher)
        return cls([ours for ours, _ in shapes], [theirs for _, theirs in shapes], **kw)

    @classmethod
    def expand(cls, term):
        return (Stage(term.label, (term,), share=1 / 8),), ()

    def forward(
        self,
        student: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        losses = []
        last = len(self.connectors) - 1
        for number, connector in enumerate(self.connectors):
            ours, theirs = as_tuple(student)[number], as_tuple(teacher)[number]
            if isinstance(connector, ConvRegressor):
                ours = connector(ours.to(connector.bn.weight.dtype))  # autocast casts it back
            ours = at_least_float32(ours)
            wrong = F.relu(self.margin - torch.where(theirs > 0, ours, -ours))
            losses.append(2.0 ** (number - last) * wrong.square().flatten(1).sum(1))
        return torch.stack(losses).sum(0) * 3 / 1000
