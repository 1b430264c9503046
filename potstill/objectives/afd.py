"""AFD: attention-based feature matching, "Show, Attend and Distill" (Ji et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from potstill.connectors import LayerAttention, attention_distances, check_maps
from potstill.functional import as_tuple, full_precision
from potstill.types import Objective


class AFD(Objective):
    r"""Every teacher layer attends to the student layers, and the attention maps of the pairs are matched.

    With $v = \mathrm{normalise}(\mathrm{vec}(mean_c F^2))$, the student's pooled to the teacher's size first,

    $$L_i = \sum_t \sum_s \alpha_{its} \, mean_{hw} (v_{is} - v_{it})^2, \quad
      \alpha_{it} = softmax_s \frac{\langle W_t k_{is}, q_{it} \rangle + \langle P_t, P_s \rangle}{\sqrt d},$$

    $q_t = BN(Linear(GAP(F_t)))$, $k_s = ReLU(BN(Linear(GAP(F_s))))$, and $W$ one linear layer with batch norm for all
    student layers that gives a key for each teacher layer. $P_t$ and $P_s$ are learnt positions.

    Shapes: tuples of maps `[B, C, H, W]`, S of the student and T of the teacher, any sizes and numbers -> `[B]`.

    Defaults: `width=128` (d), and CE 1 + 0.9 KD (T = 4) + 200 AFD, a plain sum, the authors'. The default taps are the
    stages; the authors take the output of every residual block, which an address can name:
    `layer1.0,layer1.1,layer2.0,…`. Raises ValueError for taps that are no maps.

    Where we differ: nothing known. No golden pins it: it was written from the authors' code (clovaai) as the
    dossier reads it, and tests compare it with the formula written out.
    """

    zero_at_match = False
    batch_statistics = True
    default_weight = 200.0
    default_taps = ("stages", "stages")
    paper_terms = "ce:1+kd:0.9+afd:200"
    matches = "features"
    weight_from = "the authors' code"
    paper = (
        "Ji, Heo, Park: Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching. "
        "AAAI 2021. arXiv:2102.02973"
    )

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int], width: int = 128):
        super().__init__()
        self.attention = LayerAttention(teacher_channels, student_channels, width)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = as_tuple(student), as_tuple(teacher)
        check_maps("afd", ours, theirs)
        return cls([x.shape[1] for x in ours], [x.shape[1] for x in theirs], **kw)

    def forward(
        self,
        student: Float[Tensor, "B C_s H_s W_s"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B C_t H_t W_t"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        ours, theirs = as_tuple(student), as_tuple(teacher)
        with full_precision(ours[0]):
            return (self.attention(theirs, ours) * attention_distances(ours, theirs).mT).sum((1, 2))
