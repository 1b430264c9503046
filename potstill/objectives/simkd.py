"""SimKD: the reused teacher classifier (Chen et al. 2022)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from potstill.connectors import Bottleneck, check_maps, to_smaller
from potstill.functional import at_least_float32, mean_of_rest
from potstill.types import Objective


class SimKD(Objective):
    r"""$\frac{1}{CHW} \| r(F_s) - F_t \|_2^2$ per sample on the last maps, $r$ a bottleneck of three convolutions.

    $r$ is 1x1, 3x3, 1x1, each with batch norm and ReLU, `C_t / factor` wide inside. The larger map is average-pooled
    to the smaller.

    Shapes: student map `[B, C_s, H_s, W_s]`, teacher map `[B, C_t, H_t, W_t]`, result `[B]`.

    Defaults: `factor=2`, weight 1. In the paper this is the only loss (CE 0, KD 0): the student then answers with
    its projected map, pooled, in the teacher's frozen classifier, so that `projector` belongs to inference. This file
    is the loss alone; used as a plain term, beside CE, it is a hint on the last map. Raises ValueError for taps that
    are no maps, or a factor that leaves no channel.

    Where we differ: the released code pools to squares; the golden `simkd` pins value and gradient.
    """

    zero_at_match = False
    batch_statistics = True
    default_taps = ("last_map", "last_map")
    part_of = "a student that ends in its projector and the teacher's classifier"
    paper = (
        "Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022. "
        "arXiv:2203.14001"
    )

    def __init__(self, student_channels: int, teacher_channels: int, factor: int = 2):
        super().__init__()
        if not 1 <= factor <= teacher_channels:
            raise ValueError(f"simkd: factor must lie between 1 and the teacher's {teacher_channels}, got {factor}")
        self.projector = Bottleneck(student_channels, teacher_channels // factor, teacher_channels, activated=True)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        check_maps("simkd", (student,), (teacher,))
        return cls(student.shape[1], teacher.shape[1], **kw)

    def forward(
        self, student: Float[Tensor, "B C_s H_s W_s"], teacher: Float[Tensor, "B C_t H_t W_t"]
    ) -> Float[Tensor, "B"]:
        student, teacher = to_smaller(student, teacher)
        projected = at_least_float32(self.projector(student))
        return mean_of_rest(F.mse_loss(projected, teacher.to(projected.dtype), reduction="none"))
