"""Rank distance of R2KD: Spearman's correlation of the classes' ranks (Kim et al. 2024)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from potstill.functional import at_least_float32, same_classes
from potstill.types import Objective

KINDS = ("hard", "soft")


class RankDistance(Objective):
    r"""One minus Spearman's correlation between the orders in which student and teacher rank the classes.

    $$L_i = 1 - \rho(r(z^s_i), r(z^t_i)), \qquad \rho \text{ Pearson's correlation of the ranks } 1 \dots K$$

    `rank="hard"`, the released loss: ranks by sorting twice, divided by their sum K (K + 1) / 2. **Sorting has no
    derivative, so this loss moves no weight**: it is a number in the log. Its gradient here is zero, as in the authors'
    training; a test documents it.

    `rank="soft"`, ours: $r_k = 1 + \sum_{j \ne k} \sigma((z_k - z_j) / s)$ on both sides, the number of classes that k
    beats, each counted by a sigmoid of the lead. `softness` s is measured in logits; as it goes to 0 the ranks become
    the hard ones, and the gradient vanishes where leads are much larger than it. It needs memory for B K² numbers.

    Shapes: logits `[B, K]` on both sides -> `[B]`.

    Defaults: `rank="hard"`, weight 2 beside CE 1, the authors' for Tiny ImageNet; `softness=1`, ours. The paper's loss
    ranks softmax(z / T); the ranks of z are the same. Raises ValueError for another `rank`, a `softness` that is not
    positive, other shapes, or different numbers of classes.

    Where we differ: equal logits are ranked in the order of the classes. The 1e-8 beside the norms, the authors',
    leaves a small loss at a match. No golden pins it; tests compare it with `scipy.stats.spearmanr`.

    >>> import torch
    >>> RankDistance()(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1.0, 3.0, 2.0]])).round(decimals=3)
    tensor([2.])
    """

    zero_at_match = False
    default_weight = 2.0
    matches = "logits"
    weight_from = "the authors' code"
    searched = ("softness",)
    paper = (
        "Kim, Ham, Cho, Kim: Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network "
        "Pruning. TKDE 2024. arXiv:2311.13934"
    )

    def __init__(self, rank: str = "hard", softness: float = 1.0):
        super().__init__()
        if rank not in KINDS:
            raise ValueError(f"rank_distance: rank must be {' or '.join(KINDS)}, got {rank!r}")
        if softness <= 0:
            raise ValueError(f"rank_distance: softness must be positive, got {softness}")
        self.rank, self.softness = rank, softness

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes("rank_distance", student, teacher)
        if student.ndim != 2:
            raise ValueError(f"rank_distance: expected logits [B, K], got {list(student.shape)}")
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        ours, theirs = at_least_float32(student), at_least_float32(teacher)
        if self.rank == "soft":
            return 1 - _correlation(self._soft(ours), self._soft(theirs))
        # A zero that hangs on the student, so that a run of this loss alone can be differentiated.
        return 1 - _correlation(_hard(ours), _hard(theirs)) + 0 * ours.softmax(1).sum(1)

    def _soft(self, logits: Tensor) -> Tensor:
        leads = (logits[:, :, None] - logits[:, None, :]) / self.softness
        return _shares(leads.sigmoid().sum(2) + 0.5)  # a class beats itself by half


def _hard(logits: Tensor) -> Tensor:
    return _shares(logits.argsort(stable=True).argsort(1).to(logits.dtype) + 1)


def _shares(ranks: Tensor) -> Tensor:
    classes = ranks.shape[1]
    return ranks / (classes * (classes + 1) / 2)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (vector_norm(a, dim=1) * vector_norm(b, dim=1) + 1e-8)
