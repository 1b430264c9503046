"""The model of a grid: one difference over pairs of networks × seeds, and its standard error.

With d_{p,s} the accuracy of the method less that of the baseline, in pair p (of teacher and student) and for seed s,

    d_{p,s} = μ_p + ε_{p,s},    Δ = (1/P) · Σ_p μ_p,    estimated by the mean of the P pairs' means.

**Population.** Δ is about *these* pairs, each with its one teacher, and about new seeds of the student's training.
It says nothing about other pairs, or about these with teachers trained again. Each pair weighs the same, however
many seeds it has. From three pairs on, `over_pairs` gives a second interval, for pairs as a random sample
of all pairs: Student's t over the pairs' means, P - 1 degrees of freedom.

**Spread.** Each pair has its own, because a small student varies more than a large one, and each comparison has its
own, because methods vary too. Pairs that share runs are not independent: two teachers of one student are compared
with the same lone student, so its luck counts in both. Pairs in which the runs of the baseline, or of the method,
are the same form a block b, and their deviations from the pairs' means are added seed by seed before they are squared:

    z_{b,s} = Σ_{p in b} (d_{p,s} - mean_p) / (P · n_p),    V_b = g/(g-1) · Σ_s z²_{b,s},    error² = Σ_b V_b,
    ν = (Σ V_b)² / Σ (V_b² / (g_b - 1)),                     t = mean / error with ν degrees of freedom,

g_b the number of seeds of the block's smallest pair. A single pair gives the paired t test. Pooling one variance over
pairs would have Σ(n_p - 1) degrees of freedom, but with six pairs of five seeds, half of them with twice the spread,
its error at Holm's first level of fifteen methods is 1.25 times what it says; ν costs 4 % of the interval's width.
A pair with one seed has no spread, so no interval and no p.
Sources: Satterthwaite, Biometrics Bulletin 2, 1946; Welch, Biometrika 34, 1947.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import special

from potstill.evaluation.statistics import mean_std
from potstill.evaluation.summary import Cell

Runs = dict[str, dict[int, Cell]]  # what ran in one pair: method -> seed -> cell
Sides = Mapping[str, tuple[dict[int, Cell], dict[int, Cell]]]  # pair -> the method's and the baseline's, by seed


@dataclass(frozen=True)
class Effect:
    """Δ with its standard error and degrees of freedom; both are None where a pair has one seed only."""

    means: dict[str, float]  # of the differences, by pair
    seeds: dict[str, int]  # numbers of differences, by pair
    mean: float
    error: float | None
    freedom: float | None

    def interval(self, level: float) -> tuple[float | None, float | None]:
        """mean ± t_{ν, 1-α/2} · error: for these pairs, and new seeds."""
        if self.error is None or self.freedom is None:
            return None, None
        reach = -float(special.stdtrit(self.freedom, level / 2)) * self.error
        return self.mean - reach, self.mean + reach

    def over_pairs(self, level: float) -> tuple[float | None, float | None]:
        """For pairs as a random sample; (None, None) below three. Pairs that share a student make it too narrow."""
        _, std = mean_std(list(self.means.values()))
        if std is None or len(self.means) < 3:
            return None, None
        reach = -float(special.stdtrit(len(self.means) - 1, level / 2)) * std / math.sqrt(len(self.means))
        return self.mean - reach, self.mean + reach

    def p_difference(self) -> float | None:
        """Of Δ = 0, two-sided. Without any spread the limit: 1 for a difference of zero, else 0."""
        if self.error is None or self.freedom is None:
            return None
        if self.error == 0:
            return float(self.mean == 0)
        return 2 * float(special.stdtr(self.freedom, -abs(self.mean) / self.error))

    def p_equivalence(self, margin: float) -> float | None:
        """Of |Δ| ≥ margin: the larger p of two one-sided tests. Without any spread the limit, 0 or 1."""
        if self.error is None or self.freedom is None:
            return None
        if self.error == 0:
            return float(abs(self.mean) >= margin)
        return float(special.stdtr(self.freedom, (abs(self.mean) - margin) / self.error))


def in_common(grid: Mapping[str, Runs], method: str, baseline: str) -> Sides:
    """The runs of both over the seeds that both have; pairs without any are left out."""
    found = {}
    for pair, runs in grid.items():
        ours, theirs = runs.get(method, {}), runs.get(baseline, {})
        seeds = sorted(ours.keys() & theirs.keys())
        if seeds:
            found[pair] = {seed: ours[seed] for seed in seeds}, {seed: theirs[seed] for seed in seeds}
    return found


def effect(sides: Sides) -> Effect:
    """Fit the model at the top of this module. Raises ValueError for no pairs."""
    if not sides:
        raise ValueError("no pair has the method and the baseline with a seed in common")
    differences = {
        pair: {seed: float(ours[seed].accuracy) - float(theirs[seed].accuracy) for seed in ours}
        for pair, (ours, theirs) in sides.items()
    }
    means = {pair: mean_std(list(values.values()))[0] for pair, values in differences.items()}
    seeds = {pair: len(values) for pair, values in differences.items()}
    mean = math.fsum(means.values()) / len(means)
    if min(seeds.values()) == 1:
        return Effect(means, seeds, mean, None, None)
    variances, freedoms = [], []
    for block in _blocks(sides):
        together: dict[int, float] = {}
        for pair in block:
            for seed, value in differences[pair].items():
                part = (value - means[pair]) / (len(means) * seeds[pair])
                together[seed] = together.get(seed, 0.0) + part
        smallest = min(seeds[pair] for pair in block)
        variances.append(smallest / (smallest - 1) * math.fsum(z * z for z in together.values()))
        freedoms.append(smallest - 1)
    error = math.sqrt(math.fsum(variances))
    largest = max(abs(cell.accuracy) for both in sides.values() for side in both for cell in side.values())
    if error <= 1e-12 * largest:  # rounding noise of equal differences, which t would blow up
        return Effect(means, seeds, 0.0 if abs(mean) <= 1e-12 * largest else mean, 0.0, float(sum(freedoms)))
    shares = [(v / error**2) ** 2 / freedom for v, freedom in zip(variances, freedoms, strict=True)]
    return Effect(means, seeds, mean, error, 1 / math.fsum(shares))


def _blocks(sides: Sides) -> list[list[str]]:
    """Pairs grouped by shared runs: those of the method or of the baseline are the same ones.

    The same: networks of one size whose accuracies agree exactly, over all seeds in common and at least two. A
    coincidence, possible with a few hundred test images, only costs degrees of freedom.
    """

    def same(one: dict[int, Cell], two: dict[int, Cell]) -> bool:
        seeds = one.keys() & two.keys()
        return len(seeds) > 1 and all(
            (one[seed].top1, one[seed].parameters) == (two[seed].top1, two[seed].parameters) for seed in seeds
        )

    blocks: list[list[str]] = []
    for pair, (ours, theirs) in sides.items():
        joined, apart = [pair], []
        for block in blocks:
            if any(same(ours, sides[other][0]) or same(theirs, sides[other][1]) for other in block):
                joined = block + joined
            else:
                apart.append(block)
        blocks = [*apart, joined]
    return blocks
