"""AttentionMSE: attention scores, layer by layer, as in TinyBERT (Jiao et al. 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from potstill.connectors import check_pads, check_scores, mapped_layers
from potstill.functional import attention_scores, token_mean
from potstill.types import Objective


class AttentionMSE(Objective):
    r"""The student's layers look where the teacher's do. With scores $A = Q K^T / \sqrt d$ before the softmax,

    $$L = \sum_{m=1}^{M} \mathrm{MSE}(A^s_m, A^t_{g(m)}), \qquad g(m) = m N / M.$$

    Shapes: queries of M layers, then their keys, `[B, L, h, d_s]`; of N layers, `[B, L, h, d_t]` (the tap `attention`);
    as many heads on both sides, widths are free; `attention_mask [B, L]`, True or 1 for tokens that count; result
    `[B]`, the mean over heads and L x L. Scores are made here, so a network may compute its attention in any way.

    Defaults: all layers, weight 1, the authors'. `pads="ignored"` is the paper's mean over the text; `"counted"` is
    the authors' code: scores of padded keys are 0, and rows and columns of padding are part of the mean. Raises
    ValueError for unequal numbers of heads, or numbers of layers of which none is a multiple of the other.

    Where we differ: no public values exist; a plain loop in float64 is the reference.
    """

    needs = ("attention_mask",)
    default_taps = ("attention", "attention")
    paired = False
    wants = "hidden states or attention of two transformers that read the same tokens"
    matches = "relations"
    weight_from = "the authors' code"
    paper = (
        "Jiao, Yin, Shang, Jiang, Chen, Li, Wang, Liu: TinyBERT: Distilling BERT for Natural Language Understanding. "
        "EMNLP 2020. arXiv:1909.10351"
    )

    def __init__(self, layers: list[int], pads: str = "ignored"):
        super().__init__()
        check_pads("attention_mse", pads)
        self.layers, self.pads = layers, pads
        self.zero_at_match = layers == list(range(len(layers)))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = check_scores("attention_mse", student, teacher)
        if ours % 2 or theirs % 2:
            raise ValueError(
                f"attention_mse: {ours} taps of the student and {theirs} of the teacher; expected queries of all "
                "layers, then their keys, such as layer1.q,layer2.q,layer1.k,layer2.k"
            )
        return cls(mapped_layers("attention_mse", ours // 2, theirs // 2, first=1), **kw)

    def forward(
        self,
        student: tuple[Float[Tensor, "B L h _"], ...],
        teacher: tuple[Float[Tensor, "B L h _"], ...],
        *,
        attention_mask: Bool[Tensor, "B L"] | Int64[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        keep = attention_mask.bool()
        columns, rows = keep[:, None, None], torch.ones_like(keep) if self.pads == "counted" else keep
        length = keep.shape[1] if self.pads == "counted" else keep.sum(1).clamp(min=1)[:, None]
        half, far = len(student) // 2, len(teacher) // 2
        losses = []
        for number, other in enumerate(self.layers):
            ours = attention_scores(student[number], student[half + number])
            theirs = attention_scores(teacher[other], teacher[far + other])
            squared = (ours - theirs).square().masked_fill(~columns, 0.0)
            losses.append(token_mean(squared.mean(1).sum(-1) / length, rows))
        return torch.stack(losses).sum(0)
