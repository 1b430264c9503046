"""RTK: attention-based matching with the representative teacher keys only, a reconstruction (Yang et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from potstill.connectors import LayerAttention, attention_distances, check_maps
from potstill.functional import as_tuple, full_precision
from potstill.types import Objective

DIRECTIONS = ("student", "teacher")


class RTK(Objective):
    r"""**Reconstruction.** Every student layer attends to the teacher's layers and learns from the few that answer.

    With AFD's attention $\alpha_{ist}$ of student layer s over the teacher's layers t, and its maps
    $v = normalise(vec(mean_c F^2))$, the student's pooled to the teacher's size first,

    $$L_i = \sum_s \sum_{t \in K_{is}} \frac{\alpha_{ist}}{\sum_{u \in K_{is}} \alpha_{isu}} \,
      mean_{hw} (v_{is} - v_{it})^2,$$

    $K_{is}$ the `r` teacher layers of largest attention (0: all) whose attention is above `threshold` times the uniform
    1 / T; the largest always stays. The choice itself carries no gradient, the attention that is left does.
    With `r=1` nothing is left of it: the one weight is 1, so the heads of the attention get no gradient and choose as
    they were initialised (a test documents it). Hence the default of two.

    `direction="teacher"` turns it round: every teacher layer attends to the student's layers, and these are chosen
    from. With `r=0` and no threshold that is AFD.

    Shapes: tuples of maps `[B, C, H, W]`, S of the student and T of the teacher, any sizes and numbers -> `[B]`.

    Defaults: `r=2`, `threshold=0` (none), `direction=student`, `width=128`, and CE 1 + 0.9 KD (T = 4) + 200 RTK, AFD's.
    Raises ValueError for an `r` or a threshold below 0, another direction, or taps that are no maps.

    Where we differ: unknown. Only the abstract is public: feature maps are compared by attention, and teacher
    information that does not help is filtered out. That the method to start from is AFD, how it is filtered, and all
    values are our reading; results with it are RTK-style.
    """

    zero_at_match = False
    batch_statistics = True
    paired = False
    default_weight = 200.0
    default_taps = ("stages", "stages")
    paper_terms = "ce:1+kd:0.9+rtk:200"
    matches = "features"
    weight_from = "AFD's, by our reading"
    reconstruction = True
    paper = (
        "Yang, Kao, Huang: Representative Teacher Keys for Knowledge Distillation Model Compression Based on Attention "
        "Mechanism for Image Classification. 2022. arXiv:2206.12788"
    )

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        r: int = 2,
        threshold: float = 0.0,
        direction: str = "student",
        width: int = 128,
    ):
        super().__init__()
        if r < 0 or threshold < 0:
            raise ValueError(f"rtk: r and threshold must not be negative, got {r} and {threshold}; 0 filters nothing")
        if direction not in DIRECTIONS:
            raise ValueError(f"rtk: direction must be {' or '.join(DIRECTIONS)}, got {direction!r}")
        self.r, self.threshold, self.direction = r, threshold, direction
        sides = student_channels, teacher_channels
        self.attention = LayerAttention(*(sides if direction == "student" else sides[::-1]), width)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = as_tuple(student), as_tuple(teacher)
        check_maps("rtk", ours, theirs)
        return cls([x.shape[1] for x in ours], [x.shape[1] for x in theirs], **kw)

    def forward(
        self,
        student: Float[Tensor, "B C_s H_s W_s"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B C_t H_t W_t"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        ours, theirs = as_tuple(student), as_tuple(teacher)
        with full_precision(ours[0]):
            distances = attention_distances(ours, theirs)
            if self.direction == "student":
                return (self.filtered(self.attention(ours, theirs)) * distances).sum((1, 2))
            return (self.filtered(self.attention(theirs, ours)) * distances.mT).sum((1, 2))

    def filtered(self, attention: Float[Tensor, "B Q K"]) -> Float[Tensor, "B Q K"]:
        """Without the keys that do not represent, and summing to 1 again."""
        keys = attention.shape[-1]
        best = attention.amax(-1, keepdim=True)
        kept = attention >= (attention.topk(min(self.r, keys), -1).values[..., -1:] if self.r else 0)
        kept = kept & ((attention > self.threshold / keys) | (attention == best))
        left = attention * kept
        return left / left.sum(-1, keepdim=True)
