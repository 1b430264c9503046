"""The labels of an example that is made of two (mixup, CutMix, MixKD)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.functional import at_least_float32
from potstill.types import Objective


class MixedLabels(Objective):
    r"""$-\lambda \log softmax(z_s)_y - (1 - \lambda) \log softmax(z_s)_{y'}$; it has no teacher side.

    Shapes: student logits `[B, K]`, `label` and `other` int64 `[B]`, `share` ($\lambda$) `[B]` in [0, 1], result `[B]`.
    """

    needs = ("label", "other", "share")
    zero_at_match = False
    default_taps = ("output", None)
    part_of = "mixup_kd, cutmix_kd and mixkd, which mix the examples"
    matches = "labels"
    paper = "Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization. ICLR 2018. arXiv:1710.09412"

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "B K"],
        teacher: None,
        *,
        label: Int64[Tensor, "B"],
        other: Int64[Tensor, "B"],
        share: Float[Tensor, "B"],
    ) -> Float[Tensor, "B"]:
        logits = at_least_float32(student)
        share = share.to(logits.dtype)
        own, others = (F.cross_entropy(logits, one, reduction="none") for one in (label, other))
        return share * own + (1 - share) * others
