"""Information flow (Passalis, Tzelepi and Tefas 2020): who resembles whom must agree, layer by layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.functional import AFFINITIES, DIVERGENCES, as_tuple
from potstill.types import Objective

COMBINED = ("cosine", "student_t")
"""The affinities that `combined` adds up, each with a loss of its own."""


class InfoFlow(Objective):
    r"""Row-normalised affinities of the samples of a batch must agree in every pair of layers:

    $$L_i = \sum_l \sum_K \frac{1}{B} \sum_j D(P^t_{ij}, P^s_{ij}), \quad
      P_{ij} = \frac{K(x_i, x_j)}{\sum_k K(x_i, x_k)}, \quad D = (P^t - P^s)(\log P^t - \log P^s)$$

    with the layer's flattened activations x and the kernels $K_c = (1 + \cos(x_i, x_j)) / 2$ and
    $K_T = 1 / (1 + \|x_i - x_j\|^d)$. A sample's affinity to itself counts too.

    Shapes: any activations `[B, ...]`, or several taps on both sides, pair by pair of any widths; result `[B]`. Memory
    grows as B².

    Defaults: the authors': the embeddings; both kernels (`combined`), d = 1, Jeffreys divergence; weight 1. Kernels are
    cosine, student_t (with `d`), rbf $e^{-\|x_i - x_j\| / \sigma}$, adaptive_rbf (σ is the mean distance, a constant to
    the gradient), cauchy $1 / (1 + \|x_i - x_j\|^2 / \sigma^2)$, combined. Divergences are jeffreys, kl (of the teacher
    from the student), abs, squared, exponential $P^t (\log P^t - \log P^s)^2$, kagan $(P^t - P^s)^2 / P^t$.
    `student_d`, `teacher_d`, `student_sigma` and `teacher_sigma` are the kernels' own on either side.

    Where we differ: probabilities are computed as logarithms, so there is no epsilon in the Jeffreys divergence, as in
    the authors' code, and yet an affinity that underflows leaves it finite; a cosine affinity, and in kagan the
    divisor, is no smaller than the machine epsilon (the authors' loss is infinite there); the distance of a sample to
    itself is exactly $\sqrt{10^{-6}}$ (rounding in theirs); a row of zeros gets no gradient from the cosine (NaN in
    theirs). `combined` goes with every divergence (with Jeffreys only in theirs). The
    paper's own divergence, of vectors of mutual information, is not in their code.

    The goldens pin the authors' values and gradients, for every kernel and divergence: `pkth_cosine_kl`,
    `pkth_cosine_abs`, `pkth_cosine_squared`, `pkth_student_t_kl`, `pkth_student_t_jeffreys`, `pkth_student_t_kagan`,
    `pkth_student_t_exponential`, `pkth_rbf_kl`, `pkth_adaptive_rbf_kl`, `pkth_cauchy_kl`, `pkth_combined_combined`, and
    `info_flow` for the terms of `hkd`.

    Raises:
        ValueError: an unknown kernel or divergence, an exponent or width of a kernel that is not positive, another
            number of taps on the two sides.

    >>> rows = torch.eye(4)
    >>> bool((InfoFlow("cosine")(rows, 3 * rows).abs() < 1e-6).all())
    True
    """

    scope = "batch"
    paired = True
    default_weight = 1.0
    default_taps = ("embedding", "embedding")
    matches = "relations"
    weight_from = "the authors' code"
    paper = (
        "Passalis, Tzelepi, Tefas: Heterogeneous Knowledge Distillation using Information Flow Modeling. CVPR 2020. "
        "arXiv:2005.00727"
    )

    def __init__(
        self,
        kernel: str = "combined",
        divergence: str = "jeffreys",
        student_d: float = 1,
        teacher_d: float = 1,
        student_sigma: float = 1,
        teacher_sigma: float = 1,
    ):
        super().__init__()
        for what, name, known in (
            ("kernel", kernel, [*AFFINITIES, "combined"]),
            ("divergence", divergence, DIVERGENCES),
        ):
            if name not in known:
                raise ValueError(f"info_flow: unknown {what} {name!r}; known: {', '.join(known)}")
        own = {"student_d": student_d, "teacher_d": teacher_d}
        own |= {"student_sigma": student_sigma, "teacher_sigma": teacher_sigma}
        for name, value in own.items():
            if not value > 0:
                raise ValueError(f"info_flow: {name} must be positive, got {value}")
        self.kernels = COMBINED if kernel == "combined" else (kernel,)
        self.divergence = divergence
        self.student, self.teacher = (student_d, student_sigma), (teacher_d, teacher_sigma)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = len(as_tuple(student)), len(as_tuple(teacher))
        if ours != theirs:
            raise ValueError(f"info_flow: layers are compared in pairs, got {ours} of the student and {theirs} taps")
        return cls(**kw)

    def forward(
        self,
        student: Float[Tensor, "B ..."] | tuple[Float[Tensor, "B ..."], ...],
        teacher: Float[Tensor, "B ..."] | tuple[Float[Tensor, "B ..."], ...],
    ) -> Float[Tensor, "B"]:
        pairs = list(zip(as_tuple(student), as_tuple(teacher), strict=True))
        return torch.stack([self.layer(ours, theirs) for ours, theirs in pairs]).sum(0)

    def layer(self, student: Float[Tensor, "B ..."], teacher: Float[Tensor, "B ..."]) -> Float[Tensor, "B"]:
        """The loss of one pair of layers."""
        measure = DIVERGENCES[self.divergence]
        losses = []
        for name in self.kernels:
            ours = AFFINITIES[name](student, *self.student).log_softmax(1)
            theirs = AFFINITIES[name](teacher, *self.teacher).log_softmax(1)
            losses.append(measure(ours, theirs).mean(1))
        return torch.stack(losses).sum(0)
