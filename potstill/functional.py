"""Shared pure mathematics. Every function works row by row and in at least float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class Shaped(Protocol):
    """A tensor, or what will be one."""

    @property
    def shape(self) -> Sequence[int]: ...


def at_least_float32(value: Tensor) -> Tensor:
    """bfloat16 and float16 become float32; float64 stays."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def full_precision(value: Tensor) -> torch.autocast:
    """Context in which autocast is off on the device of `value`: for norms, similarities and their heads."""
    return torch.autocast(value.device.type, enabled=False)


def log_probabilities(logits: Float[Tensor, "*rows K"], temperature: float = 1.0) -> Float[Tensor, "*rows K"]:
    """Log softmax of z / T. A logit of -inf counts as the smallest finite number: probability 0, and no gradient."""
    logits = at_least_float32(logits)
    logits = logits if temperature == 1 else logits / temperature
    return F.log_softmax(logits.clamp(min=torch.finfo(logits.dtype).min), dim=-1)


def kl(log_a: Float[Tensor, "*rows K"], log_b: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows"]:
    r"""$KL(a \| b) = \sum_k a_k (\log a_k - \log b_k)$, from logarithms; both sides may get a gradient.

    >>> kl(torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log())
    tensor(0.1838)
    """
    return F.kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)


def mixture(log_a: Float[Tensor, "*rows K"], log_b: Float[Tensor, "*rows K"], share: float) -> Float[Tensor, "*rows K"]:
    """Logarithm of `share` * a + (1 - `share`) * b, for a share in (0, 1)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def forward_kl(
    student: Float[Tensor, "*rows K"], teacher: Float[Tensor, "*rows K"], temperature: float = 1.0
) -> Float[Tensor, "*rows"]:
    r"""$KL(p_t \| p_s) = \sum_k p_t (\log p_t - \log p_s)$ with $p = softmax(z / T)$; no $T^2$ factor.

    Argument order is student first, as everywhere in Potstill; the divergence is KL(teacher || student).

    >>> forward_kl(torch.zeros(1, 3), torch.zeros(1, 3))
    tensor([0.])
    """
    return kl(log_probabilities(teacher, temperature), log_probabilities(student, temperature))


def mean_of_rest(value: Float[Tensor, "B ..."]) -> Float[Tensor, "B"]:
    """Mean over everything but the first dimension."""
    return value.flatten(1).mean(1)


def token_mean(values: Float[Tensor, "B L"], keep: Bool[Tensor, "B L"]) -> Float[Tensor, "B"]:
    """Mean over a sample's tokens that count; 0 where none does."""
    kept = torch.where(keep, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum(1) / keep.sum(1).clamp(min=1)


def attention_scores(queries: Float[Tensor, "B L h d"], keys: Float[Tensor, "B L h d"]) -> Float[Tensor, "B h L L"]:
    r"""$Q K^T / \sqrt d$ of each head, before the softmax."""
    with full_precision(queries):
        return (
            torch.einsum("bqhd,bkhd->bhqk", at_least_float32(queries), at_least_float32(keys)) / keys.shape[-1] ** 0.5
        )


def attention_kl(
    student: Float[Tensor, "B h L L"], teacher: Float[Tensor, "B h L L"], keep: Bool[Tensor, "B L"]
) -> Float[Tensor, "B"]:
    """Mean of KL(softmax of teacher's || softmax of student's rows) over heads and tokens, padding left out on both
    axes.
    """
    ours, theirs = (log_probabilities(x.masked_fill(~keep[:, None, None], -torch.inf)) for x in (student, teacher))
    return token_mean(kl(theirs, ours).mean(1), keep)


def as_tuple(side: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One side of an objective that may read several taps: an address of one tap gives a bare tensor."""
    return side if isinstance(side, tuple) else (side,)


def same_classes(name: str, student: Shaped, teacher: Shaped, dim: int = -1) -> int:
    """The number of classes of both answers. Raises ValueError, for the objective `name`, where they differ."""
    if student.shape[dim] != teacher.shape[dim]:
        raise ValueError(
            f"{name}: the student answers with {student.shape[dim]} classes, the teacher with {teacher.shape[dim]}; "
            "give the teacher's preprocessing a label_map"
        )
    return student.shape[dim]


def attention_map(features: Float[Tensor, "B C H W"], power: int = 2) -> Float[Tensor, "B HW"]:
    r"""Where a network looks: $vec(\frac{1}{C} \sum_c F_c^p)$ of each sample, L2-normalised."""
    return F.normalize(at_least_float32(features).pow(power).mean(1).flatten(1), dim=1)


def gram(rows: Float[Tensor, "B ..."]) -> Float[Tensor, "B B"]:
    """Inner products of all rows with all rows."""
    with full_precision(rows):
        flat = at_least_float32(rows).flatten(1)
        return flat @ flat.T


def distances(inner: Float[Tensor, "B B"], floor: float = 1e-12) -> tuple[Float[Tensor, "B B"], Bool[Tensor, "B B"]]:
    r"""Euclidean distances of all rows from all rows, given their inner products, and which rows are apart.

    Rows that rounding cannot tell apart, or whose squared distance is below `floor`, are not: their distance is
    $\sqrt{floor}$, of a row and itself 0, and the gradient is 0.
    """
    squares = inner.diagonal()
    sums = squares[:, None] + squares
    squared = sums - 2 * inner
    apart = squared > (4 * torch.finfo(inner.dtype).eps * sums.detach()).clamp(min=floor)
    distance = torch.where(apart, squared, floor).sqrt()
    return distance * (1 - torch.eye(len(inner), dtype=inner.dtype, device=inner.device)), apart


def soft_distances(rows: Float[Tensor, "B ..."], eps: float = 1e-6) -> Float[Tensor, "B B"]:
    r"""$\sqrt{\|x_i - x_j\|^2 + \epsilon}$ of all rows and all rows, smooth also where rows coincide.

    Rows are moved to their mean first, which changes no distance but keeps rounding small in float32.
    """
    flat = at_least_float32(rows).flatten(1)
    inner = gram(flat - flat.detach().mean(0))
    squares = inner.diagonal()
    squared = (squares[:, None] + squares - 2 * inner).clamp(min=0)
    return (squared * (1 - torch.eye(len(inner), dtype=inner.dtype, device=inner.device)) + eps).sqrt()


def soft_cosines(rows: Float[Tensor, "B ..."], eps: float) -> Float[Tensor, "B B"]:
    r"""Cosines of all rows with all rows, each divided by $\|x\| + \epsilon$; a row of zeros has cosine 0 and gets no
    gradient.
    """
    rows = at_least_float32(rows).flatten(1)
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return gram(rows * torch.where(norm > 0, 1 / (norm + eps), 0))


FLOW_EPS = 1e-6
"""Of Passalis et al. (2020): in norms, below the root of distances, and in their Kullback-Leibler divergence."""


def _cosine(rows: Tensor, d: float, sigma: float) -> Tensor:
    similarity = (1 + soft_cosines(rows, FLOW_EPS)) / 2
    # Opposite rows have similarity 0, of which rounding leaves anything below the machine epsilon, also less than 0.
    return similarity.clamp(min=torch.finfo(similarity.dtype).eps).log()


def _adaptive(rows: Tensor, d: float, sigma: float) -> Tensor:
    distance = soft_distances(rows, FLOW_EPS)
    return -distance / distance.detach().mean()


AFFINITIES: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "cosine": _cosine,
    "student_t": lambda rows, d, sigma: -soft_distances(rows, FLOW_EPS).pow(d).log1p(),
    "rbf": lambda rows, d, sigma: -soft_distances(rows, FLOW_EPS) / sigma,
    "adaptive_rbf": _adaptive,
    "cauchy": lambda rows, d, sigma: -(soft_distances(rows, FLOW_EPS) / sigma).square().log1p(),
}
"""Logarithms of affinities `[B, B]` of rows `[B, ...]`, given an exponent d and a width σ; see `InfoFlow`."""


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.exp()
    return p * (FLOW_EPS + p / (FLOW_EPS + student.exp())).log()


def _kagan(student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.exp()
    return (p - student.exp()).square() / p.clamp(min=torch.finfo(p.dtype).eps)


DIVERGENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "jeffreys": lambda student, teacher: (teacher.exp() - student.exp()) * (teacher - student),
    "kl": _kl,
    "abs": lambda student, teacher: (teacher.exp() - student.exp()).abs(),
    "squared": lambda student, teacher: (teacher.exp() - student.exp()).square(),
    "exponential": lambda student, teacher: teacher.exp() * (teacher - student).square(),
    "kagan": _kagan,
}
"""Of two matrices of probabilities, the student's first, given as logarithms: entry by entry, not summed."""
