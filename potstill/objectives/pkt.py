"""PKT: probabilistic knowledge transfer (Passalis and Tefas 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.functional import soft_cosines
from potstill.types import Objective


class PKT(Objective):
    r"""Whom a sample resembles, as probabilities, must agree:

    $$L_i = \frac{1}{B} \sum_j P^t_{ij} \log \frac{P^t_{ij} + \epsilon}{P^s_{ij} + \epsilon}, \quad
      P_{ij} = \frac{1 + \cos(x_i, x_j)}{\sum_k (1 + \cos(x_i, x_k))}.$$

    Shapes: any activations `[B, ...]` on both sides, flattened, of any widths; result `[B]`. Memory grows as B².

    Defaults: the embeddings and `eps=1e-7`, the authors'; weight 30000, RepDistiller's (it is large because the mean
    is over B² entries).

    Where we differ: a row of zeros, which resembles all others equally, gets no gradient (NaN in the reference). The
    golden pins the authors' value and gradient.

    >>> rows = torch.eye(4)
    >>> bool((PKT()(rows, 3 * rows).abs() < 1e-6).all())
    True
    """

    scope = "batch"
    default_weight = 30000.0
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "RepDistiller's command"
    paper = (
        "Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018. "
        "arXiv:1803.10837"
    )

    def __init__(self, eps: float = 1e-7):
        super().__init__()
        self.eps = eps

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if isinstance(student, tuple) or isinstance(teacher, tuple):
            raise ValueError("pkt: an address names several taps, expected one on each side, such as embedding")
        return cls(**kw)

    def forward(self, student: Float[Tensor, "B ..."], teacher: Float[Tensor, "B ..."]) -> Float[Tensor, "B"]:
        return divergence(probabilities(student, self.eps), probabilities(teacher, self.eps), self.eps)


class PKTSupervised(Objective):
    r"""PKT's supervised term: $L_i$ of PKT with $P^t_{ij} = 1 / n_i$ where samples i and j have the same label, which
    $n_i$ samples of the batch have, and 0 elsewhere. It has no teacher side.

    Shapes: student activations `[B, ...]`, `label [B]` int64; result `[B]`.

    Defaults: the embedding and `eps=1e-7`, the authors'; weight 30, which stands to PKT's 30000 as the authors' 0.001
    to 1. Use it beside `pkt`. The golden pins the authors' value and gradient, with the target in float64.
    """

    needs = ("label",)
    scope = "batch"
    zero_at_match = False
    default_weight = 30.0
    default_taps = ("embedding", None)
    matches = "labels"
    weight_from = "the authors' ratio to pkt"
    paper = PKT.paper

    def __init__(self, eps: float = 1e-7):
        super().__init__()
        self.eps = eps

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if isinstance(student, tuple):
            raise ValueError("pkt_supervised: the address names several taps, expected one, such as embedding")
        return cls(**kw)

    def forward(
        self, student: Float[Tensor, "B ..."], teacher: None, *, label: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        ours = probabilities(student, self.eps)
        alike = (label[:, None] == label).to(ours.dtype)
        return divergence(ours, alike / alike.sum(1, keepdim=True), self.eps)


def probabilities(rows: Float[Tensor, "B ..."], eps: float) -> Float[Tensor, "B B"]:
    """Cosine similarities, moved to [0, 1], each row divided by its sum."""
    similarity = soft_cosines(rows, eps) + 1
    return similarity / similarity.sum(1, keepdim=True)


def divergence(student: Float[Tensor, "B B"], teacher: Float[Tensor, "B B"], eps: float) -> Float[Tensor, "B"]:
    """KL(teacher || student) of each row, divided by B."""
    return (teacher * torch.log((teacher + eps) / (student + eps))).mean(1)
