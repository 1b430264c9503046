"""Logit standardisation (Sun et al. 2024): a wrapper for any loss on logits, and its two published uses."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.functional import at_least_float32, same_classes
from potstill.objectives.dkd import DKD
from potstill.objectives.kd import KD
from potstill.types import Objective


class Standardised(Objective):
    r"""$L(\hat z_s, \hat z_t)$ with $\hat z = (z - mean(z)) / (std(z) + 10^{-7})$ over the classes of each sample.

    Only the shape of the logits is matched: the student need not copy the teacher's mean and size. The standard
    deviation is the unbiased one. `objective` is any loss on logits: `Term(Standardised(DIST()), weight=2)`.

    Shapes: those of `objective`, classes last: `[B, K] -> [B]`, `[B, T, V] -> [B, T]`. Raises ValueError for
    different numbers of classes, for less than two, and for an objective with memory or without a teacher's logits.

    Where we differ: nothing; goldens `ls_kd` and `ls_dkd` pin value and gradient.
    """

    matches = "logits"
    weight_from = "the authors' code"
    paper = "Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation. CVPR 2024. arXiv:2403.01427"

    objective: Objective

    def __init__(self, objective: Objective):
        super().__init__()
        if type(objective).default_taps != ("output", "output") or hasattr(objective, "update"):
            raise ValueError(
                f"{type(objective).__name__.lower()} does not compare the logits of student and teacher, so there is "
                "nothing to standardise"
            )
        self.objective = objective
        self.needs, self.scope = objective.needs, objective.scope
        self.zero_at_match, self.batch_statistics = objective.zero_at_match, objective.batch_statistics

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        classes = same_classes("logit standardisation", student, teacher)
        if classes < 2:
            raise ValueError(f"logit standardisation needs at least two classes, got {classes}")
        return cls(**kw)

    def forward(self, student: Float[Tensor, "*B K"], teacher: Float[Tensor, "*B K"], **extras: Tensor) -> Tensor:
        return self.objective(standardise(student), standardise(teacher), **extras)


class LSKD(Standardised):
    r"""Logit standardisation on KD: $T^2 \cdot KL(softmax(\hat z_t/T) \| softmax(\hat z_s/T))$.

    Shapes: logits `[B, K]` on both sides -> `[B]`; `[B, T, V]` -> `[B, T]`.

    Defaults: `temperature=2` and 0.1 · CE + 9 · LSKD, the authors' (single pairs differ: VGG-13 to VGG-8 takes 3,
    ResNet-110 to ResNet-20 takes 4 and weight 12).

    >>> import torch
    >>> same, z = LSKD(), torch.tensor([[1.0, 2.0, 4.0]])
    >>> bool(same(z, 3 * z + 5) < 1e-6)
    True
    """

    default_weight = 9.0
    paper_terms = "ce:0.1+ls_kd:9"

    def __init__(self, temperature: float = 2.0):
        super().__init__(KD(temperature))


class LSDKD(Standardised):
    """Logit standardisation on DKD.

    Shapes: logits `[B, K]` on both sides with `label [B]` int64 in [0, K) -> `[B]`; `[B, T, V]` with `[B, T]` too.

    Defaults: `temperature=2`, `alpha=1`, `beta=8` and weight 9 beside CE 1; the authors multiply `alpha` and `beta` by
    that weight instead. The weight grows over the first 20 of 240 epochs, as DKD's.
    """

    default_weight = 9.0
    warm_up = 1 / 12

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 2.0):
        super().__init__(DKD(alpha, beta, temperature))


def standardise(logits: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Mean 0 and standard deviation 1 over the classes; 0 for a constant row.

    >>> import torch
    >>> standardise(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    logits = at_least_float32(logits)
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)
