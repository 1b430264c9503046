"""Is the difference between two methods real? Paired statistics over seeds.

Two methods trained from the same seeds share initialisation and order of the data, so their accuracies are
compared seed by seed. With d_i the difference for seed i, mean m and sample standard deviation s:

    t = m / (s / sqrt(n)),    p = 2 · P(T_{n-1} > |t|),    interval = m ± t_{n-1, 1-α/2} · s / sqrt(n)

Source: Student, *The Probable Error of a Mean*, Biometrika 6, 1908.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import optimize, stats

LEVEL = 0.05  # two-sided; design.md §4
POWER = 0.80  # Cohen, Statistical Power Analysis for the Behavioral Sciences, 2nd ed. 1988, §2.4
MINIMUM_PAIRS = 5  # design.md §4: with fewer seeds the table says "not powered"


@dataclass(frozen=True)
class PairedDifference:
    """Treatment minus control over `n` pairs; what one pair cannot tell is None."""

    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `undecided`, or `not powered` below five pairs."""
        if self.n < MINIMUM_PAIRS or self.p is None:
            return "not powered"
        if self.p >= LEVEL:
            return "undecided"
        return "better" if self.mean > 0 else "worse"


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (divisor n - 1), the latter None for a single value.

    Raises ValueError for no values and for values that are not finite.

    >>> mean_std([1.0, 2.0, 3.0])
    (2.0, 1.0)
    >>> mean_std([4.0])
    (4.0, None)
    """
    numbers = _finite(values)
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def paired_difference(treatment: Sequence[float], control: Sequence[float]) -> PairedDifference:
    """Mean of `treatment - control` over pairs, with its 95 % Student-t interval and two-sided p-value.

    Equations at the top of this module. One pair gives a mean and nothing else. Where all differences are
    equal (s = 0) the interval has no width, and p is the limit: 1 for differences of zero, else 0.

    Raises ValueError for sides of different length, for no pairs, and for values that are not finite.

    >>> found = paired_difference([71.0, 72.0, 73.0, 71.5, 72.5], [70.0, 70.5, 72.0, 70.0, 71.5])
    >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2), found.verdict
    (1.2, 0.86, 1.54, 'better')
    """
    if len(treatment) != len(control):
        raise ValueError(f"pairs need two sides of one length, got {len(treatment)} and {len(control)} values")
    left, right = _finite(treatment), _finite(control)
    mean, std = mean_std([a - b for a, b in zip(left, right, strict=True)])
    n = len(left)
    if std is None:
        return PairedDifference(mean, None, 1, None, None, None, None)
    size = max(abs(x) for x in left + right)
    if std <= 1e-12 * size:  # rounding noise of equal differences, which t would blow up
        mean = 0.0 if abs(mean) <= 1e-12 * size else mean
        return PairedDifference(mean, 0.0, n, mean, mean, float(mean == 0), 0.0)
    error = std / math.sqrt(n)
    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    return PairedDifference(mean, std, n, mean - reach, mean + reach, p, detectable_difference(std, n))


def detectable_difference(std: float, n: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a two-sided paired t test over `n` pairs finds with the given power.

    With c = t_{n-1, 1-α/2} and T'(δ) the noncentral t distribution of n - 1 degrees of freedom, δ solves

        P(T'(δ) > c) + P(T'(δ) < -c) = power,    and the difference is δ · std / sqrt(n).

    `std` is the standard deviation of the *differences*. Where it is itself an estimate from few seeds, so is
    the answer. Source: Cohen 1988 (see `POWER`), ch. 2.

    Raises ValueError for n below 2, a negative or infinite std, and unless 0 < level < power < 1.

    >>> round(detectable_difference(1.0, 5), 3)
    1.682
    """
    if n < 2:
        raise ValueError(f"a detectable difference needs at least 2 pairs, got {n}")
    if not 0 <= std < math.inf:
        raise ValueError(f"a standard deviation is finite and not negative, got {std}")
    if not 0 < level < power < 1:
        raise ValueError(f"expected 0 < level < power < 1, got level {level} and power {power}")
    return _noncentrality(n, level, power) * std / math.sqrt(n)


@lru_cache
def _noncentrality(n: int, level: float, power: float) -> float:
    critical = float(stats.t.ppf(1 - level / 2, n - 1))

    def missing(delta: float) -> float:
        found = float(stats.nct.sf(critical, n - 1, delta))
        if delta < 5:  # beyond, the wrong-sided tail is below P(Z < -5) = 3e-7, and scipy may return NaN for it
            found += float(stats.nct.cdf(-critical, n - 1, delta))
        return found - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0 if high == 1.0 else high / 2, high))


def _finite(values: Sequence[float]) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("no values")
    for place, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"value {place} is {number}; expected finite numbers")
    return numbers
