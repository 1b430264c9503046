"""Progress -> float. For learning rates (a factor on the base rate) and for weights of terms.

A schedule is any callable of `Progress`; these are frozen dataclasses, so that recipes stay hashable and printable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from potstill.types import Progress

Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class Milestones:
    """Multiply by `gamma` after each fraction of the run.

    The defaults are RepDistiller's: divided by 10 after epochs 150, 180 and 210 of 240.

    >>> Milestones()(Progress(step=625, epoch=18, total=1000))
    0.1
    """

    at: tuple[float, ...] = (0.625, 0.75, 0.875)
    gamma: float = 0.1

    def __call__(self, progress: Progress) -> float:
        return self.gamma ** sum(progress.step >= point * progress.total for point in self.at)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to `floor`, after a linear warm-up over the fraction `warmup` of the run."""

    warmup: float = 0.0
    floor: float = 0.0

    def __call__(self, progress: Progress) -> float:
        warm = self.warmup * progress.total
        if progress.step < warm:
            return (progress.step + 1) / (warm + 1)
        part = (progress.step - warm) / max(progress.total - warm, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


@dataclass(frozen=True)
class Linear:
    """A straight line from 1 to 0, after a linear warm-up over the fraction `warmup` of the run.

    >>> [Linear()(Progress(step, 0, 4)) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    warmup: float = 0.0

    def __call__(self, progress: Progress) -> float:
        warm = self.warmup * progress.total
        if progress.step < warm:
            return (progress.step + 1) / (warm + 1)
        return max(0.0, (progress.total - progress.step) / max(progress.total - warm, 1))


@dataclass(frozen=True)
class Constant:
    """Always the same."""

    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        return self.value


@dataclass(frozen=True)
class WarmUp:
    """A weight that grows linearly over the first `share` of the run and then stays at `value`.

    The default is DKD's and ReviewKD's, 20 of 240 epochs. Theirs is constant within an epoch, (e + 1) / 20 in epoch e;
    this one takes that value at the end of the epoch.

    >>> WarmUp(value=8.0)(Progress(step=249, epoch=2, total=12_000))
    2.0
    """

    share: float = 1 / 12
    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        return self.value * min((progress.step + 1) / max(self.share * progress.total, 1.0), 1.0)


@dataclass(frozen=True)
class PerEpoch:
    """`value` in the first epoch, and `decay` times as much in every next one.

    The defaults are those of information flow (Passalis et al. 2020): after 11 epochs the weight is below 2.

    >>> [round(PerEpoch()(Progress(0, epoch, 100)), 2) for epoch in (0, 1, 11)]
    [100.0, 70.0, 1.98]
    """

    value: float = 100.0
    decay: float = 0.7

    def __post_init__(self) -> None:
        if not (self.value >= 0 and 0 < self.decay <= 1):
            raise ValueError(f"a weight of {self.value} that decays by {self.decay}: expected 0 or more, and (0, 1]")

    def __call__(self, progress: Progress) -> float:
        return self.value * self.decay**progress.epoch

    def __str__(self) -> str:
        return f"{self.value:g}*{self.decay:g}^epoch"


@dataclass(frozen=True)
class SigmoidWarmUp:
    """A weight that grows as exp(-5 (1 - f)^2) over the first `share` of the run, f being the part of it that is done.

    Laine and Aila, Temporal Ensembling, ICLR 2017, arXiv:1610.02242. Theirs, and that of ONE, is constant within an
    epoch.

    >>> SigmoidWarmUp(share=0.5)(Progress(step=500, epoch=5, total=1000))
    1.0
    """

    share: float = 80 / 300
    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        done = 1.0 if self.share == 0 else min(progress.fraction / self.share, 1.0)
        return self.value * math.exp(-5 * (1 - done) ** 2)


@dataclass(frozen=True)
class Fade:
    """A weight that is 0 over the first `start` of the run, and then falls on the line from `value` to 0 at `end`.

    The line begins at the beginning of the run, so the weight sets in at value (1 - start / end).

    >>> fade = Fade(start=0.05, end=0.8, value=2.0)
    >>> [fade(Progress(step, 0, 1000)) for step in (0, 49, 400, 800, 999)]
    [0.0, 0.0, 1.0, 0.0, 0.0]
    """

    start: float = 0.05
    end: float = 0.8
    value: float = 1.0

    def __call__(self, progress: Progress) -> float:
        done = progress.fraction
        return 0.0 if done < self.start else self.value * max(1 - done / self.end, 0.0)


@dataclass(frozen=True)
class Scaled:
    """Another schedule, times a factor."""

    schedule: Schedule
    factor: float

    def __call__(self, progress: Progress) -> float:
        return self.factor * self.schedule(progress)


def scaled(weight: float | Schedule, factor: float) -> float | Schedule:
    """A weight times a factor.

    >>> scaled(WarmUp(value=8.0), 0.5).value
    4.0
    """
    if isinstance(weight, WarmUp):
        return replace(weight, value=factor * weight.value)
    return weight * factor if isinstance(weight, int | float) else Scaled(weight, factor)


def at(weight: float | Schedule, progress: Progress) -> float:
    """The value of a plain number or a schedule."""
    return float(weight) if isinstance(weight, int | float) else weight(progress)
