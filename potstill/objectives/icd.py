"""ICD: Invariant Consistency Distillation (Giakoumoglou and Stathaki 2024), Potstill's home method."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.functional import full_precision
from potstill.types import Objective


class ICD(Objective):
    r"""A student embedding must pick out its own teacher embedding, and the match must read the same both ways.

    With $u_i, v_j$ the L2-normalised linear projections of student and teacher embedding and
    $\ell_{ij} = \kappa \langle u_i, v_j \rangle + \beta$,

    $$L_i = w \cdot (-\log P_{ii}) + \alpha \cdot KL(Q_i \| P_i), \quad
      P_{ij} = \frac{e^{\ell_{ij}}}{\sum_k e^{\ell_{ik}}}, \quad Q_{ij} = \frac{e^{\ell_{ji}}}{\sum_k e^{\ell_{ki}}}.$$

    $P$ is the row softmax (student over teachers), $Q$ the transposed column softmax (teacher over students); no
    gradient is stopped on either. $\kappa = clamp(e^\theta, 0, ceiling)$ multiplies, so ceiling 10 is temperature 0.1.

    Shapes: student `[B, D_s]`, teacher `[B, D_t]`, result `[B]`; B at least 2. Memory grows as B².

    Defaults are the authors': `width=128`, `alpha=0.5`, `ceiling=10`, $\theta_0 = 1$. `scale="trained"`;
    `"fixed"` sets $\kappa = 1/temperature$; `"released_fixed"` is the released ablation, which *multiplies* by the
    temperature (0.07) and so gives nearly flat softmaxes. Ablations: `alpha=0` is contrastive only,
    `contrastive=0` invariance only. Method weight 1 (ICD: 1 · CE + 1 · ICD; ICD+KD adds 1 · KD).

    Where we differ: nothing; goldens `icd_v1`, `icd_v2`, `dcd`, `dcd_fixed` pin value and gradient. $\beta$ is added to
    every logit and cancels in every softmax: it is kept for fidelity and never moves (a test documents it). The
    paper later became DCD; the formula is the same.

    >>> icd = ICD(student_width=8, teacher_width=16, width=4)
    >>> icd(torch.randn(6, 8), torch.randn(6, 16)).shape
    torch.Size([6])
    """

    scope = "batch"
    zero_at_match = False
    default_taps = ("embedding", "embedding")
    matches = "contrast"
    searched = ()  # the temperature is that of the fixed scale, an ablation
    weight_from = "the authors' code"
    paper = "Giakoumoglou, Stathaki: Invariant Causal Knowledge Distillation in Neural Networks. 2024. arXiv:2407.11802"

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        width: int = 128,
        alpha: float = 0.5,
        contrastive: float = 1.0,
        ceiling: float = 10.0,
        scale: Literal["trained", "fixed", "released_fixed"] = "trained",
        temperature: float = 0.07,
    ):
        super().__init__()
        if scale not in ("trained", "fixed", "released_fixed"):
            raise ValueError(f"icd: scale must be 'trained', 'fixed' or 'released_fixed', got {scale!r}")
        if temperature <= 0 or ceiling <= 0:
            raise ValueError(f"icd: temperature and ceiling must be positive, got {temperature} and {ceiling}")
        self.alpha, self.contrastive, self.ceiling = alpha, contrastive, ceiling
        self.student_head = nn.Linear(student_width, width)
        self.teacher_head = nn.Linear(teacher_width, width)
        self.fixed = {"trained": None, "fixed": 1 / temperature, "released_fixed": temperature}[scale]
        if self.fixed is None:
            self.log_scale = nn.Parameter(torch.tensor(1.0))
            self.bias = nn.Parameter(torch.tensor(0.0))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        for side, value in (("student", student), ("teacher", teacher)):
            if value.ndim != 2:
                raise ValueError(f"icd: the {side} tap has shape {list(value.shape)}, expected embeddings [B, D]")
        return cls(student.shape[1], teacher.shape[1], **kw)

    def forward(self, student: Float[Tensor, "B D_s"], teacher: Float[Tensor, "B D_t"]) -> Float[Tensor, "B"]:
        with full_precision(student):
            dtype = self.student_head.weight.dtype
            u = F.normalize(self.student_head(student.to(dtype)), dim=1)
            v = F.normalize(self.teacher_head(teacher.to(dtype)), dim=1)
            logits = u @ v.T
            if self.fixed is None:
                logits = logits * self.log_scale.exp().clamp(0, self.ceiling) + self.bias
            else:
                logits = logits * self.fixed
            log_p = F.log_softmax(logits, dim=1)
            loss = -self.contrastive * log_p.diagonal()
            if self.alpha:
                log_q = F.log_softmax(logits.T, dim=1)
                loss = loss + self.alpha * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
            return loss
