"""FitNet: hints (Romero et al. 2015)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from potstill.connectors import ConvRegressor
from potstill.functional import at_least_float32, mean_of_rest
from potstill.types import Objective


class FitNet(Objective):
    r"""$\frac{1}{CHW} \| r(F_s) - F_t \|_2^2$ per sample, with $r$ a convolution, batch norm and ReLU.

    Shapes: student map `[B, C_s, H_s, W_s]`, teacher map `[B, C_t, H_t, W_t]`, result `[B]`.

    Defaults: the second stage on both sides and weight 100, RepDistiller's. One training stage, as there; the paper
    pre-trains up to the hint first. Raises ValueError when no regressor leads from one map size to the other.

    The goldens pin RepDistiller's value and gradient.
    """

    zero_at_match = False
    batch_statistics = True
    default_weight = 100.0
    default_taps = ("stage2", "stage2")
    matches = "features"
    weight_from = "RepDistiller's command"
    paper = "Romero et al.: FitNets: Hints for Thin Deep Nets. ICLR 2015. arXiv:1412.6550"

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]):
        super().__init__()
        self.regressor = ConvRegressor(student_shape, teacher_shape)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(tuple(student.shape), tuple(teacher.shape), **kw)

    def forward(
        self, student: Float[Tensor, "B C_s H_s W_s"], teacher: Float[Tensor, "B C_t H_t W_t"]
    ) -> Float[Tensor, "B"]:
        student = student.to(self.regressor.bn.weight.dtype)  # autocast casts it back
        difference = at_least_float32(self.regressor(student)) - at_least_float32(teacher)
        return mean_of_rest(difference.square())
