"""DKD: decoupled knowledge distillation (Zhao et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.functional import at_least_float32, same_classes
from potstill.types import Objective


class DKD(Objective):
    r"""Soft targets in two parts: the target class against the rest, and the rest among themselves.

    With $p = softmax(z / T)$, $b = (p_y, 1 - p_y)$ and $q$ the softmax over the classes other than the label $y$,

    $$L = T^2 \left( \alpha \, KL(b_t \| b_s) + \beta \, KL(q_t \| q_s) \right).$$

    Plain KD is $\alpha = 1$, $\beta = 1 - p_{t,y}$, which mutes the second part where the teacher is sure.

    Shapes: logits `[B, K]` on both sides with `label [B]` int64 in [0, K) -> `[B]`; `[B, T, V]` with `[B, T]` too.

    Defaults: `alpha=1`, `beta=8`, `temperature=4`, and CE 1 + DKD 1, the authors' for CIFAR-100; there `beta` is 6 for
    VGG-13 and WRN-40-2 teachers and 2 for ResNet-56 and -110. The weight grows over the first 20 of 240 epochs
    (`warm_up`; on ImageNet 1 epoch, `temperature=1`, `beta=0.5` or 2). Raises ValueError for a temperature that is
    not positive, for different numbers of classes, or for less than two.

    Where we differ: the released code masks the label by subtracting 1000 and takes the logarithm of a softmax, which
    is infinite for large logits at T = 1. Ours stays in the log domain: finite there, and the golden `dkd` pins
    value and gradient elsewhere.

    >>> DKD()(torch.zeros(2, 10), torch.zeros(2, 10), label=torch.tensor([3, 4])).tolist()
    [0.0, 0.0]
    """

    needs = ("label",)
    warm_up = 1 / 12
    matches = "logits"
    weight_from = "mdistiller's config"
    paper = "Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022. arXiv:2203.08679"

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"dkd: temperature must be positive, got {temperature}")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        classes = same_classes("dkd", student, teacher)
        if classes < 2:
            raise ValueError(f"dkd: it compares the label with the other classes, and there is only {classes}")
        return cls(**kw)

    def forward(
        self, student: Float[Tensor, "*B K"], teacher: Float[Tensor, "*B K"], *, label: Int64[Tensor, "*B"]
    ) -> Float[Tensor, "*B"]:
        odds_s, rest_s = self._parts(student, label)
        odds_t, rest_t = self._parts(teacher, label)
        target = _binary_kl(odds_s, odds_t)
        others = F.kl_div(rest_s, rest_t, reduction="none", log_target=True).sum(-1)
        return self.temperature**2 * (self.alpha * target + self.beta * others)

    def _parts(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The log-odds of the label, and log-probabilities among the other classes (0 at the label, on both sides)."""
        logits = at_least_float32(logits) / self.temperature
        is_label = torch.arange(logits.shape[-1], device=logits.device) == label[..., None]
        others = logits.masked_fill(is_label, -torch.inf).logsumexp(-1, keepdim=True)
        rest = (logits - others).masked_fill(is_label, 0)
        return (logits.gather(-1, label[..., None]) - others).squeeze(-1), rest


def _binary_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of two events, from their log-odds."""
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return yes + no
