"""Shared pure mathematics. Every function works row by row and in at least float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

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
    """Log softmax of z / T. A logit of -inf counts as `lowest`: probability 0, and no gradient."""
    logits = at_least_float32(logits)
    logits = logits if temperature == 1 else logits / temperature
    return F.log_softmax(logits.clamp(min=lowest(logits)), dim=-1)


def lowest(logits: Tensor) -> float:
    """What stands for -inf: low enough for a probability of 0, and a million such losses can be added up."""
    return torch.finfo(logits.dtype).min / 2**20


@runtime_checkable
class Largest(Protocol):
    """`TopLogits`: what is known of a distribution of which only the largest probabilities are."""

    @property
    def log_probs(self) -> Tensor: ...
    @property
    def indices(self) -> Tensor: ...
    @property
    def temperature(self) -> float: ...
    @property
    def shape(self) -> Sequence[int]: ...


def log_laws(
    student: Float[Tensor, "*rows K"], teacher: Float[Tensor, "*rows K"] | Largest, temperature: float = 1.0
) -> tuple[Float[Tensor, "*rows C"], Float[Tensor, "*rows C"]]:
    r"""Log-probabilities at a temperature, the teacher's first, over the same classes.

    These are all K, or, where k of the teacher's are known, C = k + 1: these and one for all others. There the teacher
    has what is missing to 1 (at least what its log-probabilities leave open by their rounding, so that a loss stays
    finite), and the student $\log \sum_{rest} q$, taken from its logits and not as a difference from 1. Raises
    ValueError where the shapes or the temperatures differ.
    """
    if isinstance(teacher, Tensor):
        return log_probabilities(teacher, temperature), log_probabilities(student, temperature)
    if tuple(student.shape) != tuple(teacher.shape) or temperature != teacher.temperature:
        raise ValueError(
            f"the teacher's TopLogits are of shape {list(teacher.shape)} at temperature {teacher.temperature:g}, the "
            f"student's logits of shape {list(student.shape)}, compared at temperature {temperature:g}; expected equal "
            "ones: the others' mass is known at one temperature only"
        )
    known = teacher.indices >= 0
    log_p = torch.cat([teacher.log_probs.where(known, -torch.inf), _log_missing(teacher, known)], -1)
    own = at_least_float32(student)
    own = own if temperature == 1 else own / temperature
    floor, classes = lowest(own), own.shape[-1]
    own = own.clamp(min=floor)
    largest = own.gather(-1, teacher.indices.clamp(min=0)).where(known, floor)
    # What only fills up a row is written into one more column, so that it takes no token's place.
    rest = F.pad(own, (0, 1), value=floor).scatter_(-1, teacher.indices.where(known, classes), floor)
    log_q = torch.cat([largest, rest.logsumexp(-1, keepdim=True)], -1)
    return log_probabilities(log_p), log_probabilities(log_q)


def _log_missing(top: Largest, known: Tensor) -> Tensor:
    """Logarithm of what is missing to 1, `[*rows, 1]`: a small difference, so in float64. -inf where all are known."""
    half = torch.finfo(top.log_probs.dtype).eps / 2
    log_p = top.log_probs.double().where(known, -torch.inf).clamp(min=torch.finfo(torch.float64).min)
    p = log_p.exp()
    rounding = half * -(p * log_p).sum(-1, keepdim=True) + torch.finfo(torch.float64).eps
    missing = torch.maximum(1 - p.sum(-1, keepdim=True), rounding).log()
    every = known.sum(-1, keepdim=True) == top.shape[-1]
    return missing.masked_fill(every, -torch.inf).to(at_least_float32(top.log_probs).dtype)


def kl(log_a: Float[Tensor, "*rows K"], log_b: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows"]:
    r"""$KL(a \| b) = \sum_k a_k (\log a_k - \log b_k)$, from logarithms; both sides may get a gradient.

    >>> kl(torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log())
    tensor(0.1838)
    """
    return F.kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)


def mixture(log_a: Float[Tensor, "*rows K"], log_b: Float[Tensor, "*rows K"], share: float) -> Float[Tensor, "*rows K"]:
    """Logarithm of `share` * a + (1 - `share`) * b, for a share in (0, 1)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def jsd(log_p: Float[Tensor, "*rows K"], log_q: Float[Tensor, "*rows K"], beta: float) -> Float[Tensor, "*rows"]:
    r"""$\beta KL(P \| M) + (1 - \beta) KL(Q \| M)$, $M = \beta P + (1 - \beta) Q$, from logarithms.

    At the ends, where that is 0, what it tends to when divided by its weight: KL(P || Q) for $\beta = 0$, KL(Q || P)
    for $\beta = 1$. For $\beta$ between them it is not negative for entries that do not sum to one either.

    >>> jsd(torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.4, 0.4, 0.2]).log(), 0.5)
    tensor(0.0462)
    """
    if beta in (0, 1):
        return kl(log_q, log_p) if beta else kl(log_p, log_q)
    middle = mixture(log_p, log_q, beta)
    return beta * kl(log_p, middle) + (1 - beta) * kl(log_q, middle)


def sorted_l1(p: Float[Tensor, "*rows K"], q: Float[Tensor, "*rows N"]) -> Float[Tensor, "*rows"]:
    r"""$\sum_i |p_{(i)} - q_{(i)}|$ of non-negative entries, each side in descending order, the shorter filled with 0.

    >>> sorted_l1(torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.35, 0.35, 0.2, 0.1]))
    tensor(0.7000)
    """
    p, q = (side.sort(dim=-1, descending=True).values for side in (p, q))
    both = min(p.shape[-1], q.shape[-1])
    return (p[..., :both] - q[..., :both]).abs().sum(-1) + p[..., both:].sum(-1) + q[..., both:].sum(-1)


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
