"""HiddenCosine: the direction of hidden states, as in DistilBERT (Sanh et al. 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from potstill.connectors import TokenLinear, check_tokens
from potstill.functional import at_least_float32, token_mean
from potstill.types import Objective


class HiddenCosine(Objective):
    r"""$1 - \cos(h_s, h_t)$ of the last hidden states of each token.

    Shapes: `[B, L, D_s]` and `[B, L, D_t]`; result `[B, L]`, of which the task's mask `[B, L]` says what counts; with
    `per="sample"` `[B]`, the mean over the tokens of `attention_mask [B, L]`, for tasks with one label a text.

    Defaults: `last_hidden` on both sides, weight 1, the authors'. Raises ValueError for taps that are no tokens, or
    texts of different lengths.

    Where we differ: where the widths differ, a matrix learnt beside the student leads from one to the other; the
    authors' student is as wide as its teacher. No public values exist; a plain loop in float64 is the reference.
    """

    default_taps = ("last_hidden", "last_hidden")
    wants = "hidden states or attention of two transformers that read the same tokens"
    matches = "features"
    weight_from = "the authors' code"
    paper = (
        "Sanh, Debut, Chaumond, Wolf: DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter. "
        "2019. arXiv:1910.01108"
    )

    def __init__(self, width: int, teacher_width: int, per: str = "token"):
        super().__init__()
        if per not in ("token", "sample"):
            raise ValueError(f"hidden_cosine: per is token or sample, got {per!r}")
        self.per = per
        self.needs = ("attention_mask",) if per == "sample" else ()
        self.zero_at_match = width == teacher_width
        self.projection: nn.Module | None = (
            None if self.zero_at_match else TokenLinear(width, teacher_width, bias=False)
        )

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = check_tokens("hidden_cosine", student, teacher)
        if len(ours) + len(theirs) > 2:
            raise ValueError(f"hidden_cosine: {len(ours)} and {len(theirs)} taps; write a Term for each layer")
        return cls(ours[0].shape[-1], theirs[0].shape[-1], **kw)

    def forward(
        self,
        student: Float[Tensor, "B L _"],
        teacher: Float[Tensor, "B L _"],
        *,
        attention_mask: Bool[Tensor, "B L"] | Int64[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L"] | Float[Tensor, "B"]:
        ours = student if self.projection is None else self.projection(student)
        losses = 1 - F.cosine_similarity(at_least_float32(ours), at_least_float32(teacher), dim=-1)
        return losses if attention_mask is None else token_mean(losses, attention_mask.bool())
