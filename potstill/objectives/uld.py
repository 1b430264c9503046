"""ULD: universal logit distillation, which needs no common vocabulary (2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from potstill.functional import log_probabilities, sorted_l1
from potstill.types import Objective


class ULD(Objective):
    r"""$\frac{1}{L} \sum_t \sum_i |p_{(i),t} - q_{(i),t}|$: probabilities in descending order, whatever they stand for.

    P is the teacher's softmax, Q the student's, each over its own vocabulary; the smaller one is filled with zeros.
    Positions of a response are paired by their number, $L$ being the length of the shorter one; what the longer one
    has beyond that is left out. A sample's mean over its tokens is its mean over the L pairs, so it does not matter
    how much that was.

    Shapes: logits `[B, R, V]` of the student and `[B, Q, W]` of the teacher, whose response may be cut into another
    number of tokens; `mask` `[B, R]` and `teacher_mask` `[B, Q]` say which count -> `[B, R]`.

    Defaults: weight 1.5 beside cross-entropy, `temperature=1`: the authors' code.

    Where we differ: the release also makes its softmax from the first answer token on rather than from the position
    that predicts it, and skips the student's end-of-text token; here that is a matter of the view's mask. No golden:
    tests compare it with its formula. It knows no token's identity, and pairs drift apart where the tokenizers do;
    `gold` aligns bytes. Raises ValueError for a temperature that is not positive, and for answers that are not one per
    token.

    >>> q, p = torch.tensor([[[0.35, 0.35, 0.2, 0.1]]]).log(), torch.tensor([[[0.7, 0.2, 0.1]]]).log()
    >>> ULD()(q, p, mask=torch.ones(1, 1, dtype=torch.bool), teacher_mask=torch.ones(1, 1, dtype=torch.bool))
    tensor([[0.7000]])
    """

    needs = ("mask", "teacher_mask")
    matches = "logits"
    wants = "texts cut by two tokenizers (potstill.language.crossing)"
    default_weight = 1.5
    weight_from = "the authors' code"
    default_taps = ("output", "teacher:output@teacher")
    paper_terms = "ce:1+uld:1.5"
    paper = (
        "Boizard, El Haddad, Hudelot, Colombo: Towards Cross-Tokenizer Distillation: the Universal Logit Distillation "
        "Loss for LLMs. 2024. arXiv:2402.12030"
    )

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"ULD: temperature must be positive, got {temperature}")
        self.temperature = temperature

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        for name, side in (("student", student), ("teacher", teacher)):
            if side.ndim != 3:
                raise ValueError(
                    f"ULD: the {name} answers with shape {list(side.shape)}; expected logits of every token of a "
                    "response, [B, R, V]"
                )
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "B R V"],
        teacher: Float[Tensor, "B Q W"],
        mask: Bool[Tensor, "B *R"],
        teacher_mask: Bool[Tensor, "B Q"],
    ) -> Float[Tensor, "B R"]:
        length = student.shape[1]
        both = min(length, teacher.shape[1])
        beyond = (0, length - both)
        q, p = (log_probabilities(side[:, :both], self.temperature).exp() for side in (student, teacher))
        counted = mask if mask.ndim == 2 else mask[:, None].expand(-1, length)
        paired = counted & F.pad(teacher_mask[:, :both], beyond)
        # What is left out counts in the mean over tokens, so the others are weighed up.
        share = counted.sum(1, keepdim=True).to(q.dtype) / paired.sum(1, keepdim=True).clamp(min=1)
        return torch.where(paired, F.pad(sorted_l1(p, q), beyond) * share, 0)
