"""What a grid can claim: each method against a baseline, over pairs of networks × seeds.

The difference Δ, its standard error and what population it is about: `effects.py`.

**Two tests per method**, at `level`: of Δ = 0 (two-sided), and of |Δ| ≥ margin (two one-sided tests, Schuirmann, J.
Pharmacokinetics and Biopharmaceutics 15, 1987). Each kind is corrected by Holm over all methods that have a p against
this baseline, in a family of its own. Of one method only one of the two hypotheses can be true, so one claim errs with
probability ≤ level; over all methods a false difference, and a false equivalence, have probability ≤ level each.

**Verdict**: `not powered` below five seeds in any compared pair; else `equivalent` where |Δ| is shown to be below the
margin, *also when it is shown not to be zero*; else `better` or `worse` where Δ is shown not to be zero; else
`undecided`. The margin was fixed beforehand as the least difference that matters, and no two methods are exactly equal:
if zero went first, every verdict would be better or worse once there are seeds enough. The intervals are for one
comparison on its own; Holm may leave undecided what an interval without zero suggests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from potstill.errors import did_you_mean
from potstill.evaluation.effects import Runs, effect, in_common
from potstill.evaluation.statistics import (
    LEVEL,
    MINIMUM_PAIRS,
    advertised_difference,
    holm,
    paired_difference,
)
from potstill.evaluation.summary import Cell

MARGIN = 0.3  # points of accuracy; fixed before the first grid ran


@dataclass(frozen=True)
class Claim:
    """A method against a baseline over pairs × seeds; what the data cannot tell is None. Accuracies in points.

    `pairs` counts the pairs where both ran with a seed in common, `missing` names the others; `n` counts differences
    over all pairs, and `seeds` those of the smallest pair. `low` to `high` is the interval of the mean at 1 - level,
    from `error` and its degrees of `freedom`; `low_random` to `high_random` is that for pairs as a random sample.
    `p` is of Δ = 0, `p_equivalence` of |Δ| ≥ margin, both also corrected by Holm. `detectable` is the smallest Δ that a
    new grid of this size finds with 80 % power, on average over what this grid's error might have been, tested at
    Holm's first step, level / (number of methods). Below the margin, such a Δ may rightly be called equivalent.
    """

    method: str
    baseline: str
    pairs: int
    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    p_equivalence: float | None
    detectable: float | None
    verdict: str
    seeds: int
    p_equivalence_holm: float | None
    error: float | None
    freedom: float | None
    low_random: float | None
    high_random: float | None
    missing: tuple[str, ...]
    margin: float
    level: float


def claims(
    cells: Mapping[str, Sequence[Cell]], baseline: str = "student", margin: float = MARGIN, level: float = LEVEL
) -> list[Claim]:
    """One claim per method against `baseline`, in order of first appearance; `cells` maps a pair's name to its cells.

    Model, tests and verdicts at the top of this module. A method without any seed in common with the baseline has
    no claim. Where all differences are equal the interval has no width and the p-values are 0 or 1.

    Raises ValueError for no cells, a baseline that ran nowhere, a method and seed given twice in a pair, a result that
    is not finite, a margin that is not positive, and a level outside 0 to 0.5.

    >>> cells = {pair: [Cell(m, s, 70 + s * s % 3 / 10 + (m == "kd"), 72, None, 10, 1.0, m, m) for m in
    ...          ("student", "kd") for s in range(5)] for pair in ("a", "b")}
    >>> [(c.method, c.pairs, c.n, round(c.mean, 2), c.verdict) for c in claims(cells)]
    [('kd', 2, 10, 1.0, 'better')]
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"the margin is {margin}; expected a finite number of points above 0")
    if not 0 < level < 0.5:
        raise ValueError(f"the level is {level}; expected a probability between 0 and 0.5")
    grid = _by_method(cells, baseline, "baseline")
    sides = {method: in_common(grid, method, baseline) for method in _methods(grid) if method != baseline}
    effects = {method: effect(both) for method, both in sides.items() if both}
    difference = _holm({method: found.p_difference() for method, found in effects.items()})
    equivalence = _holm({method: found.p_equivalence(margin) for method, found in effects.items()})
    claimed = []
    for method, found in effects.items():
        low, high = found.interval(level)
        low_random, high_random = found.over_pairs(level)
        detectable = None
        if found.error is not None and found.freedom is not None:
            freedom = int(found.freedom + 1e-9)  # rounding may leave 3.9999… of 4; whole numbers are cached
            detectable = advertised_difference(found.error, freedom, level=level / len(difference))
        seeds = min(found.seeds.values())
        p_holm, p_equivalence_holm = difference.get(method), equivalence.get(method)
        claimed.append(
            Claim(
                method=method,
                baseline=baseline,
                pairs=len(found.means),
                n=sum(found.seeds.values()),
                mean=found.mean,
                low=low,
                high=high,
                p=found.p_difference(),
                p_holm=p_holm,
                p_equivalence=found.p_equivalence(margin),
                detectable=detectable,
                verdict=_verdict(found.mean, seeds, p_holm, p_equivalence_holm, level),
                seeds=seeds,
                p_equivalence_holm=p_equivalence_holm,
                error=found.error,
                freedom=found.freedom,
                low_random=low_random,
                high_random=high_random,
                missing=tuple(pair for pair in grid if pair not in found.means),
                margin=margin,
                level=level,
            )
        )
    return claimed


def tallies(cells: Mapping[str, Sequence[Cell]], reference: str) -> dict[str, dict[str, int]]:
    """In how many pairs each method lies above the `reference`, in order of first appearance.

    `pairs` counts those with a seed in common. `wins` and `losses` are pairs where the paired 95 % interval, over at
    least five seeds, lies wholly above or below 0; `ties` are pairs with five seeds where it does not, which does not
    show that the two are equal; `unpowered` are pairs with fewer seeds. These four add up: wins + ties + losses +
    unpowered = pairs. `higher` and `lower` count the signs of the mean differences, luck included. A tally
    describes; it is not corrected for the number of pairs or methods, and of pairs without a difference one in 20
    is a win or a loss. `claims` decides.

    Raises ValueError for no cells, a reference that ran nowhere, a method and seed given twice in a pair, and a result
    that is not finite.

    >>> cells = [Cell(m, s, 70 + s * s % 3 / 10 + (m == "kd"), 72, None, 10, 1.0, m, m) for m in
    ...          ("student", "kd") for s in range(5)]
    >>> tallies({"a": cells, "b": cells[:8]}, "student")["kd"]
    {'wins': 1, 'ties': 0, 'losses': 0, 'unpowered': 1, 'pairs': 2, 'higher': 2, 'lower': 0}
    """
    grid = _by_method(cells, reference, "reference")
    rows = {}
    for method in _methods(grid):
        if method == reference:
            continue
        sides = in_common(grid, method, reference).values()
        found = [paired_difference(*([run.accuracy for run in side.values()] for side in both)) for both in sides]
        verdicts = [difference.verdict for difference in found]
        if found:
            rows[method] = {
                "wins": verdicts.count("better"),
                "ties": verdicts.count("undecided"),
                "losses": verdicts.count("worse"),
                "unpowered": verdicts.count("not powered"),
                "pairs": len(found),
                "higher": sum(difference.mean > 0 for difference in found),
                "lower": sum(difference.mean < 0 for difference in found),
            }
    return rows


def _holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Over the methods that have a p."""
    known = {method: p for method, p in p_values.items() if p is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def _verdict(mean: float, seeds: int, p: float | None, p_equivalence: float | None, level: float) -> str:
    if seeds < MINIMUM_PAIRS or p is None or p_equivalence is None:
        return "not powered"
    if p_equivalence < level:
        return "equivalent"
    if p < level:
        return "better" if mean > 0 else "worse"
    return "undecided"


def _methods(grid: Mapping[str, Runs]) -> dict[str, None]:
    """In order of first appearance."""
    return dict.fromkeys(method for runs in grid.values() for method in runs)


def _by_method(cells: Mapping[str, Sequence[Cell]], wanted: str, role: str) -> dict[str, Runs]:
    grid: dict[str, Runs] = {}
    for pair, group in cells.items():
        runs = grid.setdefault(pair, {})
        for cell in group:
            where = f"pair {pair!r}, {cell.method!r} seed {cell.seed}"
            if not math.isfinite(cell.accuracy):
                raise ValueError(f"{where}: top1 is {cell.top1}; expected a finite number")
            if cell.seed in runs.setdefault(cell.method, {}):
                raise ValueError(f"{where} is given more than once")
            runs[cell.method][cell.seed] = cell
    known = _methods(grid)
    if not known:
        raise ValueError("nothing to compare: no cells")
    if wanted not in known:
        raise ValueError(f"the {role} {wanted!r} ran in no pair; {did_you_mean(wanted, known)}")
    return grid
