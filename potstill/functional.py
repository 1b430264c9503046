"""Shared pure mathematics. Every function works row by row and in at least float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
