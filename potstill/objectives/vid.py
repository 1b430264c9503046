"""VID: variational information distillation (Ahn et al. 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import layer_shapes, to_smaller
from potstill.functional import as_tuple, at_least_float32
from potstill.types import Objective


class VID(Objective):
    r"""The student must predict the teacher's maps, under a Gaussian whose variance is learnt for each channel:

    $$L = \sum_l \frac{1}{CHW} \sum_{c,h,w} \frac12 \Big[ \frac{(\mu(F_s)_{chw} - F_{t,chw})^2}{\sigma_c^2}
      + \log \sigma_c^2 \Big], \quad \sigma_c^2 = \log(1 + e^{\rho_c}) + \epsilon,$$

    with $\mu$ three 1x1 convolutions without bias and two ReLUs between them.

    Shapes: one feature map `[B, C, H, W]` a layer on both sides, as many layers on each; result `[B]`. Where sizes
    differ, the larger map is average-pooled to the smaller, not only to squares.

    Defaults: every stage, `hidden` the teacher's channels, `initial_variance=5`, `eps=1e-5`, weight 1: RepDistiller's.
    The loss may be negative. Raises ValueError for an initial variance that is not above `eps`, other taps than
    feature maps, or unequal numbers of them.

    Where we differ: the softplus cannot overflow (above $\rho = 88$ the reference is infinite in float32). The golden
    pins RepDistiller's value and gradient.
    """

    zero_at_match = False
    default_taps = ("stages", "stages")
    matches = "features"
    weight_from = "RepDistiller's command"
    paper = "Ahn et al.: Variational Information Distillation for Knowledge Transfer. CVPR 2019. arXiv:1904.05835"

    def __init__(
        self,
        student_channels: tuple[int, ...],
        teacher_channels: tuple[int, ...],
        hidden: int | None = None,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ):
        super().__init__()
        if not initial_variance > eps > 0:
            raise ValueError(f"vid: expected initial_variance > eps > 0, got {initial_variance} and {eps}")
        self.layers = nn.ModuleList(
            Layer(channels_in, hidden or channels_out, channels_out, initial_variance, eps)
            for channels_in, channels_out in zip(student_channels, teacher_channels, strict=True)
        )

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        shapes = layer_shapes("vid", student, teacher)
        return cls(tuple(ours[1] for ours, _ in shapes), tuple(theirs[1] for _, theirs in shapes), **kw)

    def forward(
        self,
        student: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B _ _ _"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        layers = zip(self.layers, as_tuple(student), as_tuple(teacher), strict=True)
        return torch.stack([layer(ours, theirs) for layer, ours, theirs in layers]).sum(0)


class Layer(nn.Module):
    """The loss of one layer, with what it learns: the regressor $\\mu$, and $\\rho$ for each channel of the teacher."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int, initial_variance: float, eps: float):
        super().__init__()
        self.eps = eps
        self.regressor = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
        )
        scale = initial_variance - eps
        rho = scale + math.log(-math.expm1(-scale))  # the inverse of the softplus
        self.log_scale = nn.Parameter(torch.full((channels_out,), rho))

    def forward(self, student: Float[Tensor, "B C_s _ _"], teacher: Float[Tensor, "B C_t _ _"]) -> Float[Tensor, "B"]:
        student, teacher = to_smaller(student, teacher)
        mean = at_least_float32(self.regressor(student.to(self.log_scale.dtype)))  # autocast casts it back
        error = F.mse_loss(mean, teacher.to(mean.dtype), reduction="none").mean((2, 3))
        variance = F.softplus(self.log_scale, threshold=40) + self.eps
        return (error / variance + variance.log()).mean(1) / 2
