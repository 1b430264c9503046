"""RKD: relational knowledge distillation (Park et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from potstill.functional import at_least_float32, distances, gram, mean_of_rest
from potstill.types import Objective


class RKD(Objective):
    r"""Distances between samples, and angles between three of them, must agree. With $h$ the Huber loss (threshold 1),
    $d_{ij} = \| x_i - x_j \|$, $\bar d$ its mean over $i \ne j$ and $\alpha_{ijk}$ the cosine at $x_i$ between
    $x_j - x_i$ and $x_k - x_i$ (0 where two of them coincide),

    $$L_i = \frac{w_d}{B} \sum_j h \Big( \frac{d^s_{ij}}{\bar d^s}, \frac{d^t_{ij}}{\bar d^t} \Big)
      + \frac{w_a}{B^2} \sum_{j,k} h(\alpha^s_{ijk}, \alpha^t_{ijk}).$$

    Shapes: any activations `[B, ...]` on both sides, flattened; result `[B]`. Memory grows as B³, and not with the
    width: the cosines are made from inner products.

    Defaults: the embeddings, `distance_weight=25`, `angle_weight=50`, weight 1: the paper's ratio, RepDistiller's
    values.

    Where we differ: samples that coincide pass no gradient to each other (the reference's grows to 1e11 there), and a
    batch of one gives 0, not NaN. The golden pins RepDistiller's value and gradient.

    >>> rows = torch.eye(4)
    >>> bool((RKD()(rows, 3 * rows + 5).abs() < 1e-6).all())
    True
    """

    scope = "batch"
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "RepDistiller's command"
    paper = "Park et al.: Relational Knowledge Distillation. CVPR 2019. arXiv:1904.05068"

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0):
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if isinstance(student, tuple) or isinstance(teacher, tuple):
            raise ValueError("rkd: an address names several taps, expected one on each side, such as embedding")
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B ..."], teacher: Float[Tensor, "B ..."]) -> Float[Tensor, "B"]:
        (distance_s, angle_s), (distance_t, angle_t) = relations(student), relations(teacher)
        distance = F.smooth_l1_loss(distance_s, distance_t, reduction="none").mean(1)
        angle = mean_of_rest(F.smooth_l1_loss(angle_s, angle_t, reduction="none"))
        return self.distance_weight * distance + self.angle_weight * angle


def relations(rows: Float[Tensor, "B ..."]) -> tuple[Float[Tensor, "B B"], Float[Tensor, "B B B"]]:
    """Distances over their mean, and the cosine at i between the directions to j and to k."""
    rows = at_least_float32(rows).flatten(1)
    inner = gram(rows - rows.mean(0))  # relations do not see the mean, and without it less is lost to rounding
    distance, apart = distances(inner)
    inverse = torch.where(apart, 1 / torch.where(apart, distance, 1), 0)
    half = inner - inner.diagonal()[:, None] / 2
    products = inner - half[:, :, None] - half[:, None, :]  # <x_j - x_i, x_k - x_i>
    cosine = products * inverse[:, :, None] * inverse[:, None, :]
    pairs = max(len(rows) * (len(rows) - 1), 1)
    return distance / (distance.sum() / pairs).clamp(min=1e-12), cosine
