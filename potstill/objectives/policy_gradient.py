"""The clipped policy gradient of MiniLLM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.functional import at_least_float32
from potstill.types import Objective


class PolicyGradient(Objective):
    r"""$\max(-\rho_t A_t, -clip(\rho_t, 1 \pm \epsilon) A_t) \, w_t$ with
    $\rho_t = q_\theta(y_t) / q_{old}(y_t)$, $w_t = q_{old}(y_t) / \tilde p(y_t)$.

    `label` $y$ are the tokens that were written, `advantage` $A$ what they were worth, `before` their log-probability
    under the student that wrote, `importance` $w$ their weight under the law that they were drawn from.

    Shapes: student logits `[B, R, V]`, extras `[B, R]` -> `[B, R]`. No teacher side: the advantage holds what it says.

    Defaults: `clip=0.2`, the authors'.

    Raises ValueError for a clip that is not positive.
    """

    needs = ("label", "advantage", "before", "importance")
    zero_at_match = False
    lazy = True
    default_taps = ("output", None)
    matches = "logits"
    part_of = "minillm"
    paper = (
        "Gu, Dong, Wei, Huang: MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024. arXiv:2306.08543"
    )

    def __init__(self, clip: float = 0.2):
        super().__init__()
        if not clip > 0:
            raise ValueError(f"PolicyGradient: clip must be positive, got {clip}")
        self.clip = clip

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "*B V"],
        teacher: None,
        *,
        label: Int64[Tensor, "*B"],
        advantage: Float[Tensor, "*B"],
        before: Float[Tensor, "*B"],
        importance: Float[Tensor, "*B"],
    ) -> Float[Tensor, "*B"]:
        logits = at_least_float32(student)
        now = -F.cross_entropy(logits.flatten(0, -2), label.flatten(), reduction="none").view_as(label)
        ratio = (now - before).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage) * importance
