"""Shared pure mathematics. Every function works row by row and in at least float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """bfloat16 and float16 become float32; float64 stays."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def full_precision(value: Tensor) -> torch.autocast:
    """Context in which autocast is off on the device of `value`: for norms, similarities and their heads."""
    return torch.autocast(value.device.type, enabled=False)


def forward_kl(
    student: Float[Tensor, "*rows K"], teacher: Float[Tensor, "*rows K"], temperature: float = 1.0
) -> Float[Tensor, "*rows"]:
    r"""$KL(p_t \| p_s) = \sum_k p_t (\log p_t - \log p_s)$ with $p = softmax(z / T)$; no $T^2$ factor.

    Argument order is student first, as everywhere in Potstill; the divergence is KL(teacher || student).

    >>> forward_kl(torch.zeros(1, 3), torch.zeros(1, 3))
    tensor([0.])
    """
    log_student = F.log_softmax(at_least_float32(student) / temperature, dim=-1)
    log_teacher = F.log_softmax(at_least_float32(teacher) / temperature, dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)


def mean_of_rest(value: Float[Tensor, "B ..."]) -> Float[Tensor, "B"]:
    """Mean over everything but the first dimension."""
    return value.flatten(1).mean(1)
