"""KDSVD: knowledge distillation by singular value decomposition (Lee et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from potstill.connectors import layer_shapes
from potstill.functional import at_least_float32, full_precision
from potstill.types import Objective


class KDSVD(Objective):
    r"""How the main directions of the features relate from one layer to the next must agree. With $v^l_j \in R^C$ the
    j-th right singular vector of a sample's map (pixels by channels) and $\hat\sigma$ the teacher's first k singular
    values, L2-normalised,

    $$L = \sum_l \sum_{j \le k} \sum_{ab} (R^s_{abj} - R^t_{abj})^2, \quad
      R_{abj} = \exp \Big( -\frac{(\hat\sigma^{l+1}_j v^{l+1}_{aj} - \hat\sigma^l_j v^l_{bj})^2}{8} \Big).$$

    For each teacher vector the student's is that of its first k + 3 which is most parallel, with the sign that makes
    the cosine positive.

    Shapes: feature maps `[B, C, H, W]` of at least two layers, with equal channels on both sides; sizes are free;
    result `[B]`.

    Defaults: `k=1`, RepDistiller's, and every stage. Weight 1 is ours: RepDistiller's commands give none.
    Raises ValueError for unequal channels, fewer than two layers, or maps of fewer than k channels or pixels.

    Where we differ: (1) A teacher vector's largest entry is positive, so that the value is the same everywhere; the
    reference leaves the sign to LAPACK, though the loss depends on it. The golden pins RepDistiller's value and
    gradient with its signs. (2) Singular values that coincide, or vanish, give finite gradients. (3) What is decomposed
    is the smaller of the products C x C and HW x HW of a map with itself. This waits for the device, once a layer and
    side.
    """

    default_taps = ("stages", "stages")
    matches = "relations"
    weight_from = "ours"
    paper = (
        "Lee, Kim, Song: Self-supervised Knowledge Distillation Using Singular Value Decomposition. ECCV 2018. "
        "arXiv:1807.06819"
    )

    def __init__(self, k: int = 1):
        super().__init__()
        if k < 1:
            raise ValueError(f"kdsvd: k must be at least 1, got {k}")
        self.k = k
        self.sign: Callable[[Tensor], Tensor] = sign_of_largest
        """Of two opposite singular vectors of the teacher, which one: `[B, C, k] -> [B, 1, k]` of 1 and -1."""

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        objective = cls(**kw)
        shapes = layer_shapes("kdsvd", student, teacher)
        ours, theirs = ([shape[1] for shape in side] for side in zip(*shapes, strict=True))
        if ours != theirs:
            raise ValueError(
                f"kdsvd: the student's layers have {ours} channels and the teacher's {theirs}; it compares vectors "
                "over channels, so they must be equal. at, nst and sp do without, vid brings a regressor"
            )
        if len(shapes) < 2:
            raise ValueError("kdsvd: it needs at least two layers on each side, such as stage1,stage2,stage3")
        least = min(min(shape[1], shape[2] * shape[3]) for pair in shapes for shape in pair)
        if least < objective.k:
            raise ValueError(f"kdsvd: a map has {least} channels or pixels, too few for k={objective.k} vectors")
        return objective

    def forward(
        self, student: tuple[Float[Tensor, "B _ _ _"], ...], teacher: tuple[Float[Tensor, "B _ _ _"], ...]
    ) -> Float[Tensor, "B"]:
        losses = []
        before = None
        for ours, theirs in zip(student, teacher, strict=True):
            values, teacher_vectors = singular(theirs.detach(), self.k)
            teacher_vectors = teacher_vectors * self.sign(teacher_vectors)
            _, student_vectors = singular(ours, self.k + 3)
            scale = F.normalize(values, dim=1)[:, None]
            now = aligned(student_vectors, teacher_vectors) * scale, teacher_vectors * scale
            if before is not None:
                relation, target = (
                    torch.exp(-(top[:, :, None] - bottom[:, None]).square() / 8)
                    for top, bottom in zip(now, before, strict=True)
                )
                losses.append((relation - target).square().sum((1, 2, 3)))
            before = now
        return torch.stack(losses).sum(0)


def singular(maps: Float[Tensor, "B C H W"], count: int) -> tuple[Float[Tensor, "B n"], Float[Tensor, "B C n"]]:
    """The first singular values, and the vectors over channels; n is `count`, or less where there are no more.

    They come from the eigenvectors $u_i$ of a product $M$ of the map with itself. Their derivative,
    $du_i = \\sum_j u_j (u_j^T dM u_i) / (\\lambda_i - \\lambda_j)$, is added as a term of value 0; the quotient is
    damped where eigenvalues are close to rounding.
    """
    rows = at_least_float32(maps).flatten(2)
    wide = rows.shape[1] > rows.shape[2]
    with full_precision(rows):
        product = rows.mT @ rows if wide else rows @ rows.mT
        values, basis = torch.linalg.eigh(product.detach())
        values, basis = values.flip(-1).clamp(min=0), basis.flip(-1)
        close = torch.finfo(rows.dtype).eps ** (2 / 3) * values[:, :1, None] + 1e-18
        first = basis[..., :count]
        gap = values[:, None, :count] - values[..., None]
        turn = basis.mT @ ((product - product.detach()) @ first)
        vectors = first + basis @ (turn * gap / (gap.square() + close.square()))
        if wide:
            vectors = rows @ vectors
            length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            rounding = (16 * torch.finfo(rows.dtype).eps * values[:, :1, None]).sqrt() + 1e-9
            vectors = vectors / torch.maximum(length, rounding)
    return values[:, :count].sqrt(), vectors


def aligned(student: Float[Tensor, "B C m"], teacher: Float[Tensor, "B C k"]) -> Float[Tensor, "B C k"]:
    """For each teacher vector the student's most parallel one, pointing the same way."""
    with full_precision(student):
        cosine = student.detach().mT @ teacher
    best = cosine.abs().argmax(1, keepdim=True)
    chosen = student.gather(2, best.expand(-1, student.shape[1], -1))
    return chosen * cosine.gather(1, best).sign()


def sign_of_largest(vectors: Float[Tensor, "B C k"]) -> Float[Tensor, "B 1 k"]:
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)
