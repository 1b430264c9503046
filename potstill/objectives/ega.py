"""EGA: embedding graph alignment (Ma et al. 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from potstill.connectors import check_embeddings
from potstill.functional import at_least_float32, full_precision
from potstill.types import Objective


class EGA(Objective):
    r"""Samples are nodes, correlations of their embeddings are edges, and both graphs must agree.

    With $\hat x$ an embedding with its mean over the width removed and length 1,

    $$L = w_n \| \hat T \hat S^\top - I \|_F + w_e \| \hat T \hat T^\top - \hat S \hat S^\top \|_F.$$

    The Frobenius norms are those of the whole batch, so the loss is one number, and grows with the batch.

    Shapes: student `[B, D_s]`, teacher `[B, D_t]`, optional `mask [B]` -> one number, shape `[]`. Rows that do not
    count are left out. Memory grows as B².

    Defaults: `node=1`, `edge=0.3`, weight 1 beside CE 1: the authors' (yccm/EGA).

    Where we differ: the released code takes equal widths only; where they differ we put a linear layer without bias
    behind the student. A constant embedding gives NaN there; here it correlates with nothing and gets no gradient
    from itself. The golden `ega` pins value and gradient.

    >>> ega = EGA(student_width=8, teacher_width=8)
    >>> ega(torch.randn(6, 8), torch.randn(6, 8)).shape
    torch.Size([])
    """

    needs = ("mask",)
    scope = "batch"
    zero_at_match = False
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "the authors' code"
    paper = (
        "Ma, Chen, Akata: Distilling Knowledge from Self-Supervised Teacher by Embedding Graph Alignment. BMVC 2022. "
        "arXiv:2211.13264"
    )

    def __init__(self, student_width: int, teacher_width: int, node: float = 1.0, edge: float = 0.3):
        super().__init__()
        self.node, self.edge = node, edge
        self.head = nn.Linear(student_width, teacher_width, bias=False) if student_width != teacher_width else None

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_embeddings("ega", student, teacher)
        return cls(student.shape[1], teacher.shape[1], **kw)

    def forward(
        self,
        student: Float[Tensor, "B D_s"],
        teacher: Float[Tensor, "B D_t"],
        *,
        mask: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, ""]:
        with full_precision(student):
            student = at_least_float32(student)
            if self.head is not None:
                student = self.head(student.to(self.head.weight.dtype))
            s, t = centred(student), centred(teacher.to(student.dtype))
            same = torch.ones(len(s), dtype=s.dtype, device=s.device)
            if mask is not None:
                # A row of zeros leaves both graphs.
                s, t, same = s * mask[:, None], t * mask[:, None], mask.to(s.dtype)
            nodes, edges = t @ s.T - same.diag(), t @ t.T - s @ s.T
            return self.node * nodes.norm() + self.edge * edges.norm()


def centred(rows: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Each row with mean 0 and length 1; 0 for a row that is constant up to rounding."""
    away = rows - rows.mean(1, keepdim=True)
    length = away.norm(dim=1, keepdim=True)
    varies = length > torch.finfo(rows.dtype).eps * rows.detach().norm(dim=1, keepdim=True)
    return torch.where(varies, away / torch.where(varies, length, 1), 0)
