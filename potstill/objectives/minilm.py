"""MiniLM: what one layer's queries, keys and values have to do with each other (Wang et al. 2020, 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from potstill.connectors import check_scores, check_tokens
from potstill.functional import attention_kl, attention_scores
from potstill.types import Objective


class MiniLMRelations(Objective):
    r"""MiniLMv2: with the heads' queries (keys, values) side by side and cut again into $A_r$ relation heads,

    $$R_Q = \mathrm{softmax}(Q Q^T / \sqrt{d_r}) \in R^{A_r \times L \times L}, \qquad
      L = \frac{1}{3} \sum_{Q, K, V} \frac{1}{A_r L} \sum_{a, i} \mathrm{KL}(R^t_{ai} \,\|\, R^s_{ai}).$$

    Shapes: any number of `[B, L, h, d]` or `[B, L, D]`, the same on both sides (queries, keys and values of the last
    layer); heads and widths are free, as long as A_r divides each; `attention_mask [B, L]`, True or 1 for tokens that
    count; result `[B]`. Padding is left out before the softmax and in the mean.

    Defaults: `heads=48` relation heads, the authors' for BERT-base, the last layers, weight 1. Large teachers use an
    upper middle layer: `minilm(layer=21)`. Raises ValueError where heads divides a width not, or taps are no tokens.

    Where we differ: no public values exist; a plain loop in float64 is the reference. Tokens with rotated positions
    (Llama) are related as they were projected.
    """

    needs = ("attention_mask",)
    default_taps = ("last.q,last.k,last.v", "last.q,last.k,last.v")
    paper_terms = "ce:0+minilm_relations:1"
    wants = "hidden states or attention of two transformers that read the same tokens"
    matches = "relations"
    weight_from = "the paper"
    paper = (
        "Wang, Bao, Huang, Dong, Wei: MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing "
        "Pretrained Transformers. ACL 2021. arXiv:2012.15828"
    )

    def __init__(self, heads: int = 48):
        super().__init__()
        if heads < 1:
            raise ValueError(f"minilm_relations: heads must be at least 1, got {heads}")
        self.heads = heads

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        objective = cls(**kw)
        ours, theirs = check_tokens("minilm_relations", student, teacher, heads=True)
        if len(ours) != len(theirs):
            raise ValueError(f"minilm_relations: {len(ours)} taps of the student and {len(theirs)} of the teacher")
        for width in {one.flatten(2).shape[-1] for one in (*ours, *theirs)}:
            if width % objective.heads:
                fit = [str(number) for number in range(1, width + 1) if width % number == 0]
                raise ValueError(
                    f"minilm_relations: {objective.heads} relation heads do not divide a width of {width}; set heads "
                    f"to one of {', '.join(fit)}"
                )
        return objective

    def forward(
        self,
        student: Float[Tensor, "B L *_"] | tuple[Float[Tensor, "B L *_"], ...],
        teacher: Float[Tensor, "B L *_"] | tuple[Float[Tensor, "B L *_"], ...],
        *,
        attention_mask: Bool[Tensor, "B L"] | Int64[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        ours, theirs = (side if isinstance(side, tuple) else (side,) for side in (student, teacher))
        keep = attention_mask.bool()
        losses = [
            attention_kl(self._relations(one), self._relations(other), keep)
            for one, other in zip(ours, theirs, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _relations(self, value: Tensor) -> Tensor:
        split = value.flatten(2).unflatten(-1, (self.heads, -1))
        return attention_scores(split, split)


class MiniLMAttention(Objective):
    r"""MiniLM: the last layer's attention, and what its values have to do with each other, head by head,

    $$L = \frac{1}{h L} \sum_{a, i} \mathrm{KL}(A^t_{ai} \,\|\, A^s_{ai}) + \mathrm{KL}(VR^t_{ai} \,\|\, VR^s_{ai}),
      \qquad A = \mathrm{softmax}(Q K^T / \sqrt{d}), \quad VR = \mathrm{softmax}(V V^T / \sqrt{d}).$$

    Shapes: queries, keys and values of one layer, `[B, L, h, d]`, with as many heads on both sides; widths are free;
    `attention_mask [B, L]`, True or 1 for tokens that count; result `[B]`. Padding is left out before the softmax and
    in the mean.

    Defaults: the last layers, weight 1, the paper's. Raises ValueError for unequal numbers of heads.

    Where we differ: no public values exist; a plain loop in float64 is the reference.
    """

    needs = ("attention_mask",)
    default_taps = ("last.attention,last.v", "last.attention,last.v")
    paper_terms = "ce:0+minilm_attention:1"
    wants = "hidden states or attention of two transformers that read the same tokens"
    matches = "relations"
    weight_from = "the paper"
    paper = (
        "Wang, Wei, Dong, Bao, Yang, Zhou: MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of "
        "Pre-Trained Transformers. NeurIPS 2020. arXiv:2002.10957"
    )

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        if check_scores("minilm_attention", student, teacher) != (3, 3):
            raise ValueError("minilm_attention: expected the queries, keys and values of one layer on each side")
        return cls(**kw)

    def forward(
        self,
        student: tuple[Float[Tensor, "B L h _"], ...],
        teacher: tuple[Float[Tensor, "B L h _"], ...],
        *,
        attention_mask: Bool[Tensor, "B L"] | Int64[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        keep = attention_mask.bool()
        (query, key, value), (their_query, their_key, their_value) = student, teacher
        looks = attention_kl(attention_scores(query, key), attention_scores(their_query, their_key), keep)
        relations = attention_kl(attention_scores(value, value), attention_scores(their_value, their_value), keep)
        return looks + relations
