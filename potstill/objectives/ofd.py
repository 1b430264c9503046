"""OFD: a comprehensive overhaul of feature distillation (Heo et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import check_maps
from potstill.functional import as_tuple, at_least_float32
from potstill.types import Objective


class OFD(Objective):
    r"""The student's map, before activation, must match the teacher's where that is positive, and only lie below it
    elsewhere.

    With $r_l$ a convolution and batch norm, and $m_l = E[x \mid x < 0]$ per channel, from the mean and deviation that
    the teacher's last batch norm gives its output (a Gaussian; $-3\sigma$ where hardly anything is negative),

    $$L_i = \sum_l 2^{l - n} \sum_{chw} d^2 \cdot 1[t > 0 \text{ or } d > 0], \quad d = r_l(F_s) - \max(t, m_l).$$

    Shapes: tuples of maps before activation, `[B, C, H, W]`, n of each -> `[B]`. The teacher's are average-pooled to
    the student's size; of unequal numbers the deepest are paired.

    Defaults: all stages before activation, `kernel_size=1`, weight 1e-3 beside CE 1 (ImageNet: 1e-4). The batch norms
    are those in front of the teacher's taps `stage1.pre` …; for other taps or networks name them:
    `batch_norms=("layer1.2.bn2", …)`. Raises ValueError where they cannot be found or have another width.

    Where we differ: margins are read from the teacher when the objective is built and are no part of the state. A
    batch-norm weight of 0 divides by zero in the released code; its output is constant, so here the margin is
    `min(bias, 0)`. The golden `ofd` pins value, gradient and margins.
    """

    zero_at_match = False
    batch_statistics = True
    default_weight = 1e-3
    default_taps = ("stages.pre", "stages.pre")
    matches = "features"
    needs_modules = True
    weight_from = "mdistiller's config"
    paper = (
        "Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation. ICCV 2019. arXiv:1904.01866"
    )

    def __init__(self, student_channels: Sequence[int], margins: Sequence[Tensor], kernel_size: int = 1):
        super().__init__()
        self.connectors = nn.ModuleList()
        for number, (channels, margin) in enumerate(zip(student_channels, margins, strict=True)):
            conv = nn.Conv2d(channels, len(margin), kernel_size, padding=(kernel_size - 1) // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.connectors.append(nn.Sequential(conv, nn.BatchNorm2d(len(margin))))
            self.register_buffer(f"margin{number}", margin[:, None, None].clone(), persistent=False)

    @classmethod
    def sized(cls, student, teacher, data, modules, batch_norms: Sequence[str] | None = None, **kw):
        ours, theirs = as_tuple(student), as_tuple(teacher)
        check_maps("ofd", ours, theirs)
        count = min(len(ours), len(theirs))
        paths = find_batch_norms(modules) if batch_norms is None else list(batch_norms)
        layers = [modules.get(path) for path in paths[-count:]]
        found = [m.num_features if isinstance(m, nn.BatchNorm2d) and m.affine else None for m in layers]
        channels = [x.shape[1] for x in theirs[-count:]]
        if found != channels:
            raise ValueError(
                f"ofd: the teacher's maps are {channels} wide, and the batch norms in front of them, "
                f"{paths[-count:]}, {found}; name the right ones: batch_norms=('layer1.2.bn2', …)"
            )
        margins = [margin_of(m.weight.detach(), m.bias.detach()) for m in layers]
        return cls([x.shape[1] for x in ours[-count:]], margins, **kw)

    def forward(
        self,
        student: Float[Tensor, "B C_s H_s W_s"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B C_t H_t W_t"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        count = len(self.connectors)
        losses = []
        pairs = zip(self.connectors, as_tuple(student)[-count:], as_tuple(teacher)[-count:], strict=True)
        dtype = next(self.parameters()).dtype  # autocast casts it back
        for number, (connector, ours, theirs) in enumerate(pairs):
            ours = at_least_float32(connector(ours.to(dtype)))
            theirs = theirs.to(ours.dtype)
            if theirs.shape[-2:] != ours.shape[-2:]:
                theirs = F.adaptive_avg_pool2d(theirs, (ours.shape[2], ours.shape[3]))
            away = ours - theirs.maximum(self.get_buffer(f"margin{number}").to(ours.dtype))
            counts = away.masked_fill((theirs <= 0) & (away <= 0), 0)
            losses.append(counts.square().flatten(1).sum(1) / 2 ** (count - 1 - number))
        return torch.stack(losses).sum(0)


def margin_of(weight: Float[Tensor, "C"], bias: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
    r"""$E[x \mid x < 0]$ for $x \sim N(bias, weight^2)$; $-3 |weight|$ where less than 1 in 1000 is negative."""
    deviation, mean = weight.double().abs(), bias.double()
    ratio = mean / deviation.clamp(min=torch.finfo(torch.float64).tiny)
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    margin = torch.where(below > 1e-3, mean - deviation * density / below, -3 * deviation)
    return at_least_float32(torch.where(deviation > 0, margin, mean.clamp(max=0)).to(weight.dtype))


def find_batch_norms(modules: Mapping[str, nn.Module]) -> list[str]:
    """Paths of the last batch norm in front of each of the teacher's own taps `stage1.pre`, `stage2.pre` …"""
    taps = getattr(modules.get(""), "taps", None) or {}
    stages = sorted((name for name in taps if name.startswith("stage") and name.endswith(".pre")), key=_number)
    found = [_last_batch_norm(modules, taps[name]) for name in stages]
    known = [path for path in found if path is not None]
    if not known or len(known) < len(found):
        raise ValueError(
            "ofd: this teacher does not tell which batch norms stand in front of its activations; name the taps and "
            "the batch norms: batch_norms=('layer1.2.bn2', …)"
        )
    return known


def _number(name: str) -> int:
    return int(name.removeprefix("stage").removesuffix(".pre"))


def _last_batch_norm(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """At `path`, the last one inside; at `path.input`, the last that stands beside it and before it."""
    stem, _, side = path.rpartition(".")
    if side == "input" and stem in modules:
        parent, _, name = stem.rpartition(".")
        children = [child for child, _ in modules[parent].named_children()]
        before = [f"{parent}.{child}".lstrip(".") for child in children[: children.index(name)]]
    else:
        before = [p for p in modules if p == path or p.startswith(f"{path}.")]
    return next((p for p in reversed(before) if isinstance(modules[p], nn.BatchNorm2d)), None)
