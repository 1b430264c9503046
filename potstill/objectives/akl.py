"""Adaptive KL: forward and reverse KL, weighted by where student and teacher are apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.functional import kl, log_laws, same_classes
from potstill.types import Objective, TopLogits


class AKL(Objective):
    r"""$w KL(P \| Q) + (1 - w) KL(Q \| P)$ with $w = g_h / (g_h + g_t)$.

    P is the teacher's softmax(z_t / T), Q the student's softmax(z_s / T); $g_h$ and $g_t$ are the gap
    $\sum |p_v - q_v|$ between them in the head and in the tail. In the order of falling teacher probability the head is
    the first token and all those up to which (included) the teacher's mass is at most `mu`; the token that crosses `mu`
    belongs to the tail, as released. So forward KL counts as much as the head is missed, and reverse KL as much as the
    tail is. $w$ gets no gradient; where P and Q are equal it is 1/2.

    Shapes: logits `[B, T, V]` on both sides -> `[B, T]`; `[B, V]` -> `[B]`.

    Defaults: `mu=0.5`, the authors'; `temperature=1`, no factor $T^2$ and no label term, as our other divergences.
    Raises ValueError for `mu` outside [0, 1], a temperature that is not positive, or networks with different numbers
    of classes.

    Of a teacher of which only the k largest probabilities are known (TopLogits), all others are one more class, which
    belongs to the tail: the same for k = V, but no lower bound, for its weight is another one.

    Where we differ: the released weight is 0/0 where P and Q are equal, and reads a logit of -inf as one of 0, ours as
    a probability of 0. Tokens of equal probability stand in the order of the vocabulary. No golden pins it.

    >>> loss = AKL()(torch.tensor([[0.4, 0.4, 0.2]]).log(), torch.tensor([[0.7, 0.2, 0.1]]).log())
    >>> round(float(loss), 6)  # the gap is 0.3 in the head and in the tail
    0.187914
    """

    paper_terms = "ce:0+akl:1"
    matches = "logits"
    lazy = True
    takes_top = True
    weight_from = "as the other divergences"
    paper = (
        "Wu, Tao, Wang, Yang, Zhao, Wong: Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large "
        "Language Models. COLING 2025. arXiv:2404.02657"
    )

    def __init__(self, mu: float = 0.5, temperature: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"akl: temperature must be positive, got {temperature}")
        if not 0 <= mu <= 1:
            raise ValueError(f"akl: mu must lie in [0, 1], got {mu}")
        self.mu, self.temperature = mu, temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        same_classes("akl", student, teacher)
        return cls(**kw)

    def forward(
        self, student: Float[Tensor, "*B V"], teacher: Float[Tensor, "*B V"] | TopLogits
    ) -> Float[Tensor, "*B"]:
        p, q = log_laws(student, teacher, self.temperature)
        tokens = p.shape[-1] - isinstance(teacher, TopLogits)
        weight = head_share(p.detach().exp(), q.detach().exp(), self.mu, tokens)
        return weight * kl(p, q) + (1 - weight) * kl(q, p)


def head_share(p: Float[Tensor, "*B C"], q: Float[Tensor, "*B C"], mu: float, tokens: int) -> Float[Tensor, "*B"]:
    """The share of the gap between p and q that lies in p's head; 1/2 where there is no gap.

    Only the first so many `tokens` may belong to the head.

    >>> head_share(torch.tensor([[0.3, 0.5, 0.2]]), torch.tensor([[0.2, 0.4, 0.4]]), 0.8, 3)
    tensor([0.5000])
    """
    gap = (p - q).abs()
    falling, order = p[..., :tokens].sort(dim=-1, descending=True, stable=True)
    head = falling.cumsum(-1) <= mu
    head[..., 0] = True
    ahead = gap.gather(-1, order).where(head, 0).sum(-1)
    whole = gap.sum(-1)
    return torch.where(whole > 0, ahead / whole, 0.5).clamp(max=1)
