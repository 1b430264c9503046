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

import numpy as np
from scipy import optimize, special, stats

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


def advertised_difference(error: float, freedom: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The difference to promise after one grid: a new grid of the same size finds it with the given power, on average.

    `detectable_difference` takes the standard deviation for known. Here the standard error e is an estimate with
    ν degrees of freedom, and the promise is about grids, so it is averaged over what e might have been. With S and
    S' independent draws of sqrt(chi²_ν / ν), the old grid's and the new one's, and c = t_{ν, 1-α/2}, δ solves

        E[Φ(δS - cS') + Φ(-δS - cS')] = power,    and the difference is δ · e.

    With 4 degrees of freedom it is 1.24 times what takes e for known, which a new grid finds in only 69 % of cases;
    with 24, 1.05 times.

    Raises ValueError for freedom below 1, a negative or infinite error, and unless 0 < level < power < 1.

    >>> round(advertised_difference(1.0, 4), 2), round(advertised_difference(1.0, 1000), 2)
    (4.68, 2.81)
    """
    if freedom < 1:
        raise ValueError(f"an estimated error has at least 1 degree of freedom, got {freedom}")
    if not 0 <= error < math.inf:
        raise ValueError(f"a standard error is finite and not negative, got {error}")
    if not 0 < level < power < 1:
        raise ValueError(f"expected 0 < level < power < 1, got level {level} and power {power}")
    return _assured(int(freedom), level, power) * error


@lru_cache
def _assured(freedom: int, level: float, power: float, nodes: int = 128) -> float:
    critical = float(stats.t.isf(level / 2, freedom))
    places, weights = np.polynomial.legendre.leggauss(nodes)
    draws = np.sqrt(stats.chi2.ppf((places + 1) / 2, freedom) / freedom)  # quantiles of S at Gauss's nodes
    both = np.outer(weights, weights) / 4

    def missing(delta: float) -> float:
        old, new = delta * draws[:, None], critical * draws[None, :]
        return float((both * (special.ndtr(old - new) + special.ndtr(-old - new))).sum()) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0 if high == 1.0 else high / 2, high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: reject what is below α, and all of them err with probability ≤ α.

    With the m values sorted, p_(1) ≤ … ≤ p_(m), the adjusted ones are max over i ≤ j of min(1, (m - i + 1) · p_(i)),
    whatever the dependence between the tests.
    Source: Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, Scand. J. Statistics 6, 1979.

    Raises ValueError for a value outside 0 to 1.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    for place, p in enumerate(p_values):
        if not 0 <= p <= 1:  # NaN fails the comparison
            raise ValueError(f"p-value {place} is {p}; expected 0 to 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * float(p_values[place])))
        adjusted[place] = largest
    return adjusted


def _finite(values: Sequence[float]) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers:
        raise ValueError("no values")
    for place, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"value {place} is {number}; expected finite numbers")
    return numbers
