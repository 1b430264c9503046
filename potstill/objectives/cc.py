"""CC: correlation congruence (Peng et al. 2019), as its authors' code has it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import check_embeddings
from potstill.functional import full_precision
from potstill.types import Objective


class CC(Objective):
    r"""With $\delta_i = | W_s f_i^s - W_t f_i^t |$, the linear embeddings being trained on both sides,

    $$L = \frac{1}{B-1} \sum_{i=1}^{B-1} \langle \delta_i, \delta_{i+1} \rangle :$$

    only neighbouring rows of the batch are compared, so the order of the samples matters. Each pair is shared equally
    by its two samples.

    Shapes: student `[B, D_s]`, teacher `[B, D_t]`, result `[B]`. A batch of one has no pairs and gives 0.

    Defaults: `width=128` and weight 0.02, RepDistiller's. Raises ValueError for taps that are no embeddings.

    Where we differ: this is the code that the authors gave to RepDistiller, not the paper's text, which compares
    matrices of Gaussian-kernel correlations. The golden pins RepDistiller's value and gradient; a batch of one is NaN
    there.

    >>> import torch
    >>> CC(student_width=8, teacher_width=16, width=4)(torch.randn(5, 8), torch.randn(5, 16)).shape
    torch.Size([5])
    """

    scope = "batch"
    zero_at_match = False
    default_weight = 0.02
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "RepDistiller's command"
    paper = "Peng et al.: Correlation Congruence for Knowledge Distillation. ICCV 2019. arXiv:1904.01802"

    def __init__(self, student_width: int, teacher_width: int, width: int = 128):
        super().__init__()
        self.student_head = nn.Linear(student_width, width)
        self.teacher_head = nn.Linear(teacher_width, width)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_embeddings("cc", student, teacher)
        return cls(student.shape[1], teacher.shape[1], **kw)

    def forward(self, student: Float[Tensor, "B D_s"], teacher: Float[Tensor, "B D_t"]) -> Float[Tensor, "B"]:
        with full_precision(student):
            dtype = self.student_head.weight.dtype
            delta = (self.student_head(student.to(dtype)) - self.teacher_head(teacher.to(dtype))).abs()
        pairs = (delta[:-1] * delta[1:]).sum(1)
        share = len(delta) / (2 * max(len(pairs), 1))
        return share * (F.pad(pairs, (1, 0)) + F.pad(pairs, (0, 1)))
