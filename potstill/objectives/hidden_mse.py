"""HiddenMSE: hidden states, layer by layer, as in TinyBERT (Jiao et al. 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from potstill.connectors import TokenLinear, check_pads, check_tokens, mapped_layers
from potstill.functional import as_tuple, at_least_float32, token_mean
from potstill.types import Objective


class HiddenMSE(Objective):
    r"""Each layer of the student gives what the teacher's layer $g(m)$ gives, embeddings (m = 0) included,

    $$L = \sum_{m=0}^{M} \mathrm{MSE}(H^s_m W, H^t_{g(m)}), \qquad g(m) = m N / M,$$

    with $W \in R^{d_s \times d_t}$ learnt beside the student.

    Shapes: hidden states `[B, L, D_s]` of M + 1 and `[B, L, D_t]` of N + 1 layers, embeddings first (`hiddens`), or as
    many on both sides, which are then pairs; `attention_mask [B, L]`, True or 1 for tokens that count; result `[B]`,
    the mean over a sample's tokens and D_t.

    Defaults: all hidden states, weight 1 and `projection="shared"`, one linear layer with bias for all of them, as in
    the authors' code; `"paper"` is one matrix for the embeddings and one for the layers; `"none"` needs equal widths.
    `pads="ignored"` is the paper's mean over the text; `"counted"` also counts padded places, as the authors' code.
    Raises ValueError for taps that are no tokens, numbers of layers of which none is a multiple of the other, or texts
    of different lengths.

    Where we differ: no public values exist; a plain loop in float64 is the reference.
    """

    needs = ("attention_mask",)
    default_taps = ("hiddens", "hiddens")
    paired = False
    wants = "hidden states or attention of two transformers that read the same tokens"
    matches = "features"
    weight_from = "the authors' code"
    paper = (
        "Jiao, Yin, Shang, Jiang, Chen, Li, Wang, Liu: TinyBERT: Distilling BERT for Natural Language Understanding. "
        "EMNLP 2020. arXiv:1909.10351"
    )

    def __init__(
        self,
        widths: list[tuple[int, int]],
        layers: list[int],
        projection: str = "shared",
        pads: str = "ignored",
    ):
        super().__init__()
        check_pads("hidden_mse", pads)
        if projection not in ("shared", "paper", "none"):
            raise ValueError(f"hidden_mse: projection is shared, paper or none, got {projection!r}")
        self.layers, self.pads, self.projection = layers, pads, projection
        self.zero_at_match = projection == "none" and layers == list(range(len(layers)))
        distinct = sorted(set(widths))
        if projection == "none" and any(ours != theirs for ours, theirs in distinct):
            raise ValueError(f"hidden_mse: widths differ ({distinct}); take projection=shared, which learns a matrix")
        if projection != "none" and len(distinct) > 1:
            raise ValueError(
                f"hidden_mse: layers of several widths (student, teacher): {distinct}; one matrix serves them all, so "
                "write a Term for each width"
            )
        count = {"shared": 1, "paper": 2, "none": 0}[projection]
        self.projections = nn.ModuleList(TokenLinear(*distinct[0], bias=projection == "shared") for _ in range(count))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = check_tokens("hidden_mse", student, teacher)
        layers = mapped_layers("hidden_mse", len(ours) - 1, len(theirs) - 1, first=0)
        widths = [(one.shape[-1], theirs[number].shape[-1]) for one, number in zip(ours, layers, strict=True)]
        return cls(widths, layers, **kw)

    def forward(
        self,
        student: Float[Tensor, "B L _"] | tuple[Float[Tensor, "B L _"], ...],
        teacher: Float[Tensor, "B L _"] | tuple[Float[Tensor, "B L _"], ...],
        *,
        attention_mask: Bool[Tensor, "B L"] | Int64[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        keep = attention_mask.bool()
        if self.pads == "counted":
            keep = torch.ones_like(keep)
        theirs, losses = as_tuple(teacher), []
        for number, ours in enumerate(as_tuple(student)):
            if self.projections:
                ours = self.projections[min(number, len(self.projections) - 1)](ours)
            difference = at_least_float32(ours) - at_least_float32(theirs[self.layers[number]])
            losses.append(token_mean(difference.square().mean(-1), keep))
        return torch.stack(losses).sum(0)
