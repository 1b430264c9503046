"""The statistics keep their promises: false alarms, coverage, power, and agreement with scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from potstill.evaluation.statistics import detectable_difference, mean_std, paired_difference


def repeats(effect: float, n: int, count: int = 1500, seed: int = 0):
    """Simulated comparisons: seeds share a part, differences have standard deviation sqrt(2) * 0.3."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(70.0, 0.5, (count, n))
    control = shared + rng.normal(0.0, 0.3, (count, n))
    treatment = shared + effect + rng.normal(0.0, 0.3, (count, n))
    return [paired_difference(a, b) for a, b in zip(treatment, control, strict=True)]


@pytest.mark.parametrize("n", [5, 8])
def test_same_method_is_rarely_called_different(n):
    verdicts = [found.verdict for found in repeats(0.0, n)]
    assert 0.03 < np.mean([verdict != "undecided" for verdict in verdicts]) < 0.07


@pytest.mark.parametrize("n", [5, 10])
def test_the_advertised_difference_is_found_four_times_in_five(n):
    effect = detectable_difference(0.3 * math.sqrt(2), n)
    for sign, word in ((1, "better"), (-1, "worse")):
        verdicts = [found.verdict for found in repeats(sign * effect, n, seed=n)]
        assert 0.77 < np.mean([verdict == word for verdict in verdicts]) < 0.83


@pytest.mark.parametrize("n", [2, 5, 10])
def test_the_interval_covers_the_truth(n):
    covered = np.mean([found.low <= 0.7 <= found.high for found in repeats(0.7, n)])
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_agrees_with_scipy(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(70, 1, n), rng.normal(69, 1, n)
    ours, theirs = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert mean_std(a) == pytest.approx((a.mean(), a.std(ddof=1)))


def test_exchanging_the_sides_exchanges_the_signs():
    a, b = [71.0, 72.5, 70.9, 71.8, 73.0], [70.0, 71.0, 70.5, 70.1, 71.6]
    one, two = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.low, one.high, one.p) == pytest.approx((-two.mean, -two.high, -two.low, two.p))
    assert (one.verdict, two.verdict) == ("better", "worse")


def test_detectable_shrinks_with_seeds_and_approaches_the_normal_theory():
    sizes = [detectable_difference(1.0, n) for n in (2, 3, 5, 10, 100, 2000)]
    assert sizes == sorted(sizes, reverse=True)
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(2000)
    assert sizes[-1] == pytest.approx(normal, rel=2e-3)
    assert detectable_difference(2.0, 5) == pytest.approx(2 * sizes[2])


def test_what_is_undecided_lies_below_the_detectable_size():
    for found in repeats(0.3, 5, count=300):
        assert (found.verdict != "undecided") or abs(found.mean) < found.detectable


@pytest.mark.parametrize(
    ("shift", "p", "verdict"), [(0.0, 1.0, "undecided"), (0.1, 0.0, "better"), (-0.1, 0.0, "worse")]
)
def test_equal_differences(shift, p, verdict):
    control = [70.1, 70.2, 70.3, 70.7, 71.9]
    found = paired_difference([x + shift for x in control], control)
    assert (found.std, found.p, found.detectable, found.verdict) == (0.0, p, 0.0, verdict)
    assert found.low == found.high == found.mean == pytest.approx(shift)


def test_few_pairs_give_no_verdict():
    single = paired_difference([75.0], [70.0])
    assert (single.mean, single.low, single.p, single.detectable) == (5.0, None, None, None)
    four = paired_difference([75.0, 76.0, 75.5, 75.2], [70.0, 71.1, 70.4, 70.2])
    assert four.p < 1e-4
    assert single.verdict == four.verdict == "not powered"


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, math.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, math.inf])]
)
def test_bad_pairs(a, b):
    with pytest.raises(ValueError, match=r"values|value 1"):
        paired_difference(a, b)


@pytest.mark.parametrize(("std", "n", "power"), [(1.0, 1, 0.8), (-1.0, 5, 0.8), (math.nan, 5, 0.8), (1.0, 5, 0.01)])
def test_bad_detectable(std, n, power):
    with pytest.raises(ValueError, match=r"pairs|standard deviation|level"):
        detectable_difference(std, n, power=power)
