"""ITRD: information-theoretic representation distillation (Miles et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import check_embeddings
from potstill.functional import full_precision, gram
from potstill.types import Objective


class ITRD(Objective):
    r"""Features must correlate with the teacher's, and share their information. With $x$ the student embedding, brought
    to the teacher's width by a linear layer,

    $$L = \lambda_{corr} \log_2 \sum_k | c_k - 1 |^{2 \alpha} + \lambda_{mutual} \sum_{ij} \Big[
      \Big( \frac{G^s_{ij}}{tr\,G^s} \Big)^2 - \Big( \frac{G^s_{ij} G^t_{ij}}{tr (G^s \circ G^t)} \Big)^2 \Big],$$

    where $c_k$ is the correlation of feature k over the batch (its sum divided by B, the deviations by B - 1, as in the
    code) and $G$ the Gram matrix of the L2-normalised rows. Where both widths are equal, the second term sees the
    student embedding itself, as in the code.

    Shapes: student `[B, D_s]`, teacher `[B, D_t]`, result `[B]`: the second term is split over its rows i, the first
    is that of the whole batch and the same for all. Memory grows as B².

    Defaults: $\lambda_{corr}=2$, $\lambda_{mutual}=0.05$, `alpha=1.5` and weight 1, the authors'; for WRN-40-2 to
    WRN-16-2 they give $\lambda_{mutual}=1$, `alpha=1.01`. The copy in giakoumoglou/distillers leaves both $\lambda$
    out, which is `itrd(lambda_corr=1, lambda_mutual=1)`: the golden pins its value and gradient. Raises ValueError for
    taps that are no embeddings, or an alpha that is not positive.

    Where we differ: a feature that is constant over the batch counts as uncorrelated (NaN in the reference), and so
    does a batch of one.
    """

    scope = "batch"
    zero_at_match = False
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "the authors' code"
    paper = (
        "Miles, Lopez Rodriguez, Mikolajczyk: Information Theoretic Representation Distillation. BMVC 2022. "
        "arXiv:2112.00459"
    )

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        lambda_corr: float = 2.0,
        lambda_mutual: float = 0.05,
        alpha: float = 1.5,
    ):
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"itrd: alpha must be positive, got {alpha}")
        self.lambda_corr, self.lambda_mutual, self.alpha = lambda_corr, lambda_mutual, alpha
        self.embed = nn.Linear(student_width, teacher_width)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_embeddings("itrd", student, teacher)
        return cls(student.shape[1], teacher.shape[1], **kw)

    def forward(self, student: Float[Tensor, "B D_s"], teacher: Float[Tensor, "B D_t"]) -> Float[Tensor, "B"]:
        with full_precision(student):
            student, teacher = (side.to(self.embed.weight.dtype) for side in (student, teacher))
            embedded = self.embed(student)
        correlation = (standardised(embedded) * standardised(teacher)).mean(0)
        correlated = (correlation - 1).square().pow(self.alpha).sum().log2()
        same_width = self.embed.in_features == self.embed.out_features
        ours, theirs = (gram(F.normalize(side)) for side in (student if same_width else embedded, teacher))
        mutual = over_trace(ours).square() - over_trace(ours * theirs).square()
        return self.lambda_corr * correlated + self.lambda_mutual * len(mutual) * mutual.sum(1)


def standardised(rows: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Each feature at mean 0 and deviation 1 over the batch; 0 where it varies by no more than rounding."""
    centred = rows - rows.mean(0)
    variance = centred.square().sum(0) / max(len(rows) - 1, 1)
    rounding = (4 * torch.finfo(rows.dtype).eps * rows.detach()).square().mean(0)
    varies = variance > rounding
    return torch.where(varies, centred * torch.where(varies, variance, 1).rsqrt(), 0)


def over_trace(matrix: Float[Tensor, "B B"]) -> Float[Tensor, "B B"]:
    return matrix / matrix.diagonal().sum().clamp(min=torch.finfo(matrix.dtype).tiny)
