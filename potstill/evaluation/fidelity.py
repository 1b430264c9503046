"""How faithfully a student follows its teacher, and how well each knows what it knows.

**Convention.** Agreement and KL are those of Stanton et al., *Does Knowledge Distillation Really Work?*, NeurIPS 2021
(arXiv:2106.05945): over test samples, the share of equal top-1 answers, and the mean of KL(teacher ‖ student) of the
predictive distributions at temperature 1, in nats, summed over classes. Training's factor T² is not in it.

Percentages, confidences and calibration errors are in percent, as accuracies are everywhere in Potstill.
Legend: N samples, K classes, D_s and D_t widths of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.evaluation.statistics import MINIMUM_PAIRS, mean_std
from potstill.functional import forward_kl, log_probabilities

BINS = 15  # Guo et al. 2017, table 1


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram: confidences in (low, high]; the means are None where no sample fell."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """`ece` in percent, `nll` in nats, and the bars of the reliability diagram."""

    ece: float
    nll: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Fidelity:
    """A student beside its teacher on `n` test samples; `asdict` of it is JSON. `cka` is None where not known;
    without labels so is calibration."""

    n: int
    agreement: float
    kl: float
    cka: float | None
    ece: float | None
    nll: float | None
    bins: tuple[Bin, ...]
    teacher_ece: float | None
    teacher_nll: float | None
    teacher_bins: tuple[Bin, ...]


def fidelity(
    student: Float[Tensor, "N K"],
    teacher: Float[Tensor, "N K"],
    labels: Int[Tensor, "N"] | None,
    student_embedding: Float[Tensor, "N D_s"] | None = None,
    teacher_embedding: Float[Tensor, "N D_t"] | None = None,
    bins: int = BINS,
) -> Fidelity:
    """Agreement, KL(teacher ‖ student), linear CKA and both calibrations, from logits and embeddings of a test set.

    CKA is None without both embeddings and where one of them is the same for all samples.

    Raises ValueError for sides of different shapes, labels that are no classes, and values that are not finite.

    >>> logits = torch.tensor([[4.0, 0.0], [1.0, 3.0]])
    >>> found = fidelity(logits, logits.flip(1), torch.tensor([0, 1]))
    >>> found.agreement, round(found.kl, 3), found.ece < found.teacher_ece
    (0.0, 2.69, True)
    """
    student, teacher = _double(student, "student logits"), _double(teacher, "teacher logits")
    if student.shape != teacher.shape:
        raise ValueError(
            f"student logits are {list(student.shape)}, teacher logits {list(teacher.shape)}; "
            "expected the same samples and classes"
        )
    ours, theirs = (None if labels is None else calibration(side, labels, bins) for side in (student, teacher))
    cka = None
    if student_embedding is not None and teacher_embedding is not None:
        for name, side in (("student", student_embedding), ("teacher", teacher_embedding)):
            if len(side) != len(student):
                raise ValueError(f"{name} embedding has {len(side)} samples, the logits {len(student)}")
        cka = linear_cka(student_embedding, teacher_embedding)
    return Fidelity(
        n=len(student),
        agreement=100 * (student.argmax(1) == teacher.argmax(1)).double().mean().item(),
        kl=forward_kl(student, teacher).mean().item(),
        cka=cka,
        ece=None if ours is None else ours.ece,
        nll=None if ours is None else ours.nll,
        bins=ours.bins if ours else (),
        teacher_ece=None if theirs is None else theirs.ece,
        teacher_nll=None if theirs is None else theirs.nll,
        teacher_bins=theirs.bins if theirs else (),
    )


def linear_cka(one: Float[Tensor, "N D_s"], two: Float[Tensor, "N D_t"]) -> float | None:
    r"""Linear centred kernel alignment, $\|Y^T X\|_F^2 / (\|X^T X\|_F \|Y^T Y\|_F)$ with centred columns; 0 to 1.

    In feature space: products of width D × D in float64, O(N D²), never an N × N kernel. Unchanged by rotations and
    by one scale per side. With N not well above D it is biased upwards: compare values of equal N and D only.
    None where a side is the same for all samples.
    Source: Kornblith, Norouzi, Lee, Hinton: *Similarity of Neural Network Representations Revisited*, ICML 2019, §3.

    Raises ValueError for sides of different length, fewer than two samples, and values that are not finite.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> round(linear_cka(x, 5 * x.flip(1)), 6)
    1.0
    """
    one, two = _double(one, "first embedding"), _double(two, "second embedding")
    if len(one) != len(two) or len(one) < 2:
        raise ValueError(f"CKA compares at least 2 samples on both sides, got {len(one)} and {len(two)}")
    centred = []
    for side in (one, two):
        residual = side - side.mean(0)
        # A column that is constant up to float64's rounding holds noise; a side of nothing else has no geometry.
        if torch.linalg.vector_norm(residual) <= 1e-12 * torch.linalg.vector_norm(side):
            return None
        centred.append(residual / torch.linalg.vector_norm(residual))  # a free scale: no over- or underflow below
    x, y = centred
    norms = [torch.linalg.matrix_norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y))]
    return (norms[0] ** 2 / (norms[1] * norms[2])).item()


def calibration(logits: Float[Tensor, "N K"], labels: Int[Tensor, "N"], bins: int = BINS) -> Calibration:
    r"""Expected calibration error, negative log-likelihood and the reliability diagram.

    The confidence is the largest softmax probability. With `bins` intervals of equal width, $(\frac{m-1}{M},
    \frac{m}{M}]$,   $ECE = \sum_m \frac{|B_m|}{N} |accuracy(B_m) - confidence(B_m)|$, here in percent.
    The NLL is $-\frac1N \sum_i \log p_i(label_i)$. ECE is not a proper score and depends on the number of bins.
    Source: Guo, Pleiss, Sun, Weinberger: *On Calibration of Modern Neural Networks*, ICML 2017, §2 and table 1.

    Raises ValueError for no samples, labels that are no classes, fewer than one bin, and logits that are not finite.

    >>> sure = torch.tensor([[20.0, 0.0], [20.0, 0.0]])
    >>> round(calibration(sure, torch.tensor([0, 1])).ece, 3)
    50.0
    """
    logits = _double(logits, "logits")
    labels = labels.detach().to(logits.device)
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}; expected {len(logits)} class numbers")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; "
            f"with {logits.shape[1]} classes expected 0 to {logits.shape[1] - 1}"
        )
    if bins < 1:
        raise ValueError(f"a reliability diagram has at least 1 bin, got {bins}")
    log_p = log_probabilities(logits)
    top, answer = log_p.max(1)
    confidence, correct = top.exp().cpu(), (answer == labels).double().cpu()  # sums over bins have no order on a GPU
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    place = torch.bucketize(confidence, edges)  # edges[m - 1] < confidence <= edges[m]
    count = torch.bincount(place, minlength=bins)
    sure = torch.bincount(place, confidence, minlength=bins)
    right = torch.bincount(place, correct, minlength=bins)
    bars = tuple(
        Bin(100 * m / bins, 100 * (m + 1) / bins, n, 100 * s / n if n else None, 100 * r / n if n else None)
        for m, (n, s, r) in enumerate(zip(count.tolist(), sure.tolist(), right.tolist(), strict=True))
    )
    ece = 100 * ((right - sure).abs().sum() / len(logits)).item()
    nll = -log_p.gather(1, labels.long()[:, None]).mean().item()
    return Calibration(ece, nll, bars)


def verdict_sentence(summary: dict[str, Any], method: str) -> str | None:
    """A plain sentence where distillation did not help against the baseline, a student trained for as long.

    Over the seeds that both have, from the row's difference. None where the method is better, and where there is
    nothing to say: the baseline itself, a method that uses no teacher, a control, no seed in common. `did worse` is a
    verdict; `did not help` says that the mean is not above, `was not shown to help` that it is, but undecided.

    Raises ValueError for a method that the summary does not have.

    >>> row = {"method": "student", "seeds": [0, 1], "top1": [49.8, 50.0], "teacher_free": True, "difference": None}
    >>> found = {"mean": -0.6, "low": -2.0, "high": 0.9, "n": 2, "verdict": "undecided"}
    >>> icd = {"method": "icd", "seeds": [0, 1], "top1": [49.2, 49.4], "teacher_free": False, "difference": found}
    >>> verdict_sentence({"baseline": "student", "rows": [row, icd]}, "icd")
    'icd did not help: 49.3 against 49.9 % of a student trained for as long (difference -0.6 [-2.0, 0.9]).'
    """
    rows = {row["method"]: row for row in summary["rows"]}
    if method not in rows:
        raise ValueError(f"the summary has no row {method!r}; {did_you_mean(method, rows)}")
    row, control = rows[method], rows.get(summary["baseline"])
    found = row["difference"]
    if found is None or control is None or row["teacher_free"] or "~" in method or found["verdict"] == "better":
        return None
    theirs = dict(zip(control["seeds"], control["top1"], strict=True))
    base = mean_std([theirs[seed] for seed in row["seeds"] if seed in theirs])[0]
    ours = mean_std([top1 for seed, top1 in zip(row["seeds"], row["top1"], strict=True) if seed in theirs])[0]
    if found["verdict"] == "worse":
        words = "did worse"
    else:
        words = "was not shown to help" if found["mean"] > 0 else "did not help"
    interval = "" if found["low"] is None else f" [{found['low']:z.1f}, {found['high']:z.1f}]"
    whom = "a student trained for as long" if summary["baseline"] == "student" else summary["baseline"]
    sentence = (
        f"{method} {words}: {ours:.1f} against {base:.1f} % of {whom} (difference {found['mean']:z.1f}{interval})"
    )
    if found["verdict"] == "not powered":
        seeds = "1 seed decides" if found["n"] == 1 else f"{found['n']} seeds decide"
        sentence += f"; {seeds} nothing, a verdict needs {MINIMUM_PAIRS}"
    return sentence + "."


def _double(value: Tensor, name: str) -> Tensor:
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(f"{name}: shape {list(value.shape)}; expected [samples, width], neither of them 0")
    value = value.detach()
    value = (value.cpu() if value.device.type == "mps" else value).double()  # MPS has no float64
    if not value.isfinite().all():
        raise ValueError(f"{name}: {int((~value.isfinite()).sum())} of {value.numel()} values are not finite")
    return value
