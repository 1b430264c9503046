"""ReviewKD: distilling knowledge via knowledge review (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import layer_shapes
from potstill.functional import as_tuple, at_least_float32
from potstill.types import Objective


class ReviewKD(Objective):
    r"""Student maps are fused from the deepest to the shallowest; each fusion must match the teacher's map there.

    Attention-based fusion (ABF), from deep to shallow: $x_l = conv_{1 \times 1}(F_l)$,
    $x_l \leftarrow a_1 x_l + a_2 \, up(x_{l+1})$ with $a = \sigma(conv_{1 \times 1}[x_l, up(x_{l+1})])$, and
    $y_l = conv_{3 \times 3}(x_l)$ at the teacher's size. The loss is
    $\sum_l$ `hierarchical_context` (HCL) of $y_l$ and $F^t_l$.

    Shapes: tuples of n maps `[B, C, H, W]`, shallow to deep; a vector `[B, D]` counts as a 1x1 map -> `[B]`.

    Defaults: all stages and the embedding, the teacher's maps before activation, and `hidden` = the student's deepest
    width, at most 512: the authors'. Weight 1 beside CE 1 (5 for ResNet-32x4 to ResNet-8x4; ImageNet 1 or 8), which
    grows over the first 20 of 240 epochs (`warm_up`). Raises ValueError for different numbers of maps.

    Where we differ: maps need not be square, and their sizes are read from the tensors. Goldens `reviewkd` and `hcl`
    (mdistiller's) pin value and gradient.
    """

    zero_at_match = False
    batch_statistics = True
    default_taps = ("stages,embedding", "stages.pre,embedding")
    warm_up = 1 / 12
    matches = "features"
    weight_from = "mdistiller's config"
    paper = "Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review. CVPR 2021. arXiv:2104.09044"

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int], hidden: int | None = None):
        super().__init__()
        hidden = hidden or min(512, student_channels[-1])
        pairs = list(zip(student_channels, teacher_channels, strict=True))[::-1]  # the deepest first, as it runs
        self.fusions = nn.ModuleList(Fusion(s, hidden, t, fuse=number > 0) for number, (s, t) in enumerate(pairs))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        shapes = layer_shapes("reviewkd", _maps(student), _maps(teacher))
        return cls([ours[1] for ours, _ in shapes], [theirs[1] for _, theirs in shapes], **kw)

    def forward(
        self,
        student: Float[Tensor, "B *shape_s"] | tuple[Float[Tensor, "B *_"], ...],
        teacher: Float[Tensor, "B *shape_t"] | tuple[Float[Tensor, "B *_"], ...],
    ) -> Float[Tensor, "B"]:
        deeper, losses = None, []
        for fusion, ours, theirs in zip(self.fusions, _maps(student)[::-1], _maps(teacher)[::-1], strict=True):
            review, deeper = fusion(ours, deeper, theirs.shape[-2:])
            losses.append(hierarchical_context(review, theirs))
        return torch.stack(losses).sum(0)


class Fusion(nn.Module):
    """ABF: one map `[B, C_s, H, W]` and the fusion below it -> `[B, C_t, *size]` and the next fusion."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int, fuse: bool):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
        self.conv2 = nn.Sequential(
            nn.Conv2d(hidden, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.attention = nn.Conv2d(2 * hidden, 2, 1) if fuse else None
        for conv in (self.conv1[0], self.conv2[0]):
            nn.init.kaiming_uniform_(conv.weight, a=1)  # ty: ignore[invalid-argument-type]

    def forward(self, value: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        if value.device.type == "cpu":  # where convolutions run faster so
            value = value.contiguous(memory_format=torch.channels_last)
        value = self.conv1(value.to(next(self.parameters()).dtype))  # autocast casts it back
        if self.attention is not None and deeper is not None:
            size_here = value.shape[-2:]
            # The convolution of [value, up(deeper)] in two parts: no joined copy, and the second at its small size.
            here, below = self.attention.weight.chunk(2, dim=1)
            gates = F.conv2d(value, here, self.attention.bias) + _resized(F.conv2d(deeper, below), size_here)
            gates = gates.sigmoid()
            value = cast(Tensor, Mixture.apply(value, _resized(deeper, size_here), gates))
        value = _resized(value, size)
        return self.conv2(value), value


class Mixture(torch.autograd.Function):
    """`gates[:, :1] * here + gates[:, 1:] * below`, with fewer passes over the two maps and none of products kept."""

    @staticmethod
    def forward(ctx, here: Tensor, below: Tensor, gates: Tensor) -> Tensor:
        ctx.save_for_backward(here, below, gates)
        return (here * gates[:, :1]).addcmul_(below, gates[:, 1:])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        here, below, gates = ctx.saved_tensors
        to_gates = torch.cat([_inner(gradient, here), _inner(gradient, below)], 1)
        return gradient * gates[:, :1], gradient * gates[:, 1:], to_gates


def hierarchical_context(
    student: Float[Tensor, "B C H W"], teacher: Float[Tensor, "B C H W"], levels: Sequence[int] = (4, 2, 1)
) -> Float[Tensor, "B"]:
    r"""HCL: the squared difference at full size (weight 1) and average-pooled to `levels` (weights ½, ¼, ⅛), averaged.

    Levels that are not below the height are left out; weights are divided by their sum.

    >>> hierarchical_context(torch.ones(1, 2, 8, 8), torch.zeros(1, 2, 8, 8))
    tensor([1.])
    """
    difference = at_least_float32(student) - at_least_float32(teacher)
    loss, weight, total, pooled = difference.square().mean((1, 2, 3)), 1.0, 1.0, difference
    for level in levels:
        if level < difference.shape[2]:
            weight, total = weight / 2, total + weight / 2
            # Pooling is linear: pool the difference, not both maps, and where sizes divide what is pooled already.
            sizes = zip(difference.shape[2:], pooled.shape[2:], strict=True)
            even = all(whole % part == 0 and part % level == 0 for whole, part in sizes)
            pooled = F.adaptive_avg_pool2d(pooled if even else difference, level)
            loss = loss + weight * pooled.square().mean((1, 2, 3))
    return loss / total


def _maps(side: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Vectors become 1x1 maps."""
    return tuple(x[:, :, None, None] if x.ndim == 2 else x for x in as_tuple(side))


def _resized(value: Tensor, size: torch.Size) -> Tensor:
    return value if value.shape[-2:] == size else F.interpolate(value, tuple(size), mode="nearest")


def _inner(one: Float[Tensor, "B C H W"], other: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """Inner products over channels, without a map of products."""
    rows, others = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (one, other))
    return (rows[:, None] @ others[:, :, None]).view(len(one), 1, *one.shape[2:])
