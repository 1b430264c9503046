"""Claims over pairs × seeds keep their promises: false alarms, planted effects, equivalence, and least squares."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from potstill.evaluation.claims import claims, tallies
from potstill.evaluation.statistics import advertised_difference, holm, paired_difference
from potstill.evaluation.summary import Cell


def cell(method: str, seed: int, top1: float, parameters: int = 10) -> Cell:
    return Cell(method, seed, float(top1), 80.0, None, parameters, 1.0, method, f"{method}/seed{seed}")


def group(**methods):
    """Cells of one pair: `kd=[70, 71]` are seeds 0 and 1."""
    return [cell(method, seed, top1) for method, values in methods.items() for seed, top1 in enumerate(values)]


def simulate(rng, effects: dict[str, float], seeds: int = 5, scale: float = 1.0):
    """A grid as training makes it. Pairs a and b train one student, c another that varies more. A seed's luck is
    shared by all runs of a student, the runs of the lone student are the same in a and b."""
    grid = {}
    for pairs, spread, parameters in (("ab", 0.25 * scale, 10), ("c", 0.5 * scale, 20)):
        luck = 70 + rng.normal(0, 0.4, seeds)
        lone = luck + rng.normal(0, spread, seeds)
        for pair in pairs:
            taught = {method: luck + effect + rng.normal(0, spread, seeds) for method, effect in effects.items()}
            grid[pair] = [
                cell(method, seed, top1, parameters)
                for method, values in {"student": lone, **taught}.items()
                for seed, top1 in enumerate(values)
            ]
    return grid


NAMES = ("kd", "icd", "at", "crd")


def test_the_same_method_under_other_names_is_rarely_called_different():
    """Family-wise: a repeat errs when any of four names is called better or worse. Two standard errors above 5 %."""
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(1000):
        verdicts = {claim.verdict for claim in claims(simulate(rng, dict.fromkeys(NAMES, 0.0)))}
        wrong.append(bool(verdicts & {"better", "worse"}))
    assert np.mean(wrong[:200]) <= 0.05  # the promise as it is written down, on the first 200
    assert 0.015 < np.mean(wrong) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(("sign", "word"), [(1, "better"), (-1, "worse")])
def test_a_planted_effect_of_the_size_that_another_grid_advertised_is_found(sign, word):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        pilot = claims(simulate(rng, dict.fromkeys(NAMES, 0.0)))
        planted = {"kd": sign * pilot[0].detectable}  # the others stay without effect: Holm's first step decides
        repeat = claims(simulate(rng, dict.fromkeys(NAMES, 0.0) | planted))
        found.append(repeat[0].verdict == word)
    assert np.mean(found[:200]) >= 0.8
    assert 0.8 <= np.mean(found) < 0.92  # not promised by exaggeration


def test_methods_without_a_difference_and_little_noise_are_equivalent():
    rng = np.random.default_rng(2)
    verdicts = [c.verdict for _ in range(200) for c in claims(simulate(rng, dict.fromkeys(NAMES, 0.0), scale=0.3))]
    assert np.mean([verdict == "equivalent" for verdict in verdicts]) > 0.9


@pytest.mark.parametrize("margin", [0.3, -0.3])
def test_a_difference_as_large_as_the_margin_is_rarely_called_equivalent(margin):
    """Family-wise again, over four methods that all lie at the margin."""
    rng = np.random.default_rng(3)
    wrong = []
    for _ in range(400):
        found = claims(simulate(rng, dict.fromkeys(NAMES, margin), scale=0.3))
        wrong.append(any(claim.verdict == "equivalent" for claim in found))
    assert np.mean(wrong[:200]) <= 0.05
    assert np.mean(wrong) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_the_interval_covers_the_truth_also_where_pairs_share_the_lone_student():
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(1000):
        (found,) = claims(simulate(rng, {"kd": 0.7}))
        covered.append(found.low <= 0.7 <= found.high)
    assert 0.935 < np.mean(covered) < 0.975


def test_agrees_with_least_squares_on_pairs_as_fixed_effects():
    """OLS on indicators of the pairs, its coefficients averaged, with MacKinnon and White's HC2 covariance."""
    rng = np.random.default_rng(5)
    counts, spreads = {"a": 5, "b": 8, "c": 6}, {"a": 0.2, "b": 1.0, "c": 0.5}
    grid, rows, y = {}, [], []
    for place, (pair, count) in enumerate(counts.items()):
        student, kd = rng.normal(70, 1, count), rng.normal(71 + place, spreads[pair], count)
        grid[pair] = group(student=student, kd=kd)
        rows += [np.eye(3)[place]] * count
        y += list(kd - student)
    x, y = np.array(rows), np.array(y)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    bread = np.linalg.inv(x.T @ x)
    leverage = np.einsum("ij,jk,ik->i", x, bread, x)
    residuals = (y - x @ beta) ** 2 / (1 - leverage)
    contrast = np.full(3, 1 / 3)
    variance = contrast @ bread @ (x.T * residuals) @ x @ bread @ contrast

    (found,) = claims(grid)
    assert (found.mean, found.error) == pytest.approx((contrast @ beta, math.sqrt(variance)))
    assert (found.pairs, found.n, found.seeds) == (3, 19, 5)
    low, high = stats.t.interval(0.95, found.freedom, contrast @ beta, math.sqrt(variance))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.mean) / found.error, found.freedom))
    random = stats.ttest_1samp(beta, 0).confidence_interval(0.95)
    assert (found.low_random, found.high_random) == pytest.approx((random.low, random.high))


def test_two_pairs_are_welchs_test():
    """The mean over two pairs is half of Welch's difference of two samples, the second with its sign changed."""
    rng = np.random.default_rng(6)
    one, two = rng.normal(0.5, 0.2, 5), rng.normal(0.3, 1.5, 7)
    flat = [70.0] * 7
    grid = {"a": group(student=flat[:5], kd=70 + one), "b": group(student=[60.0] * 7, kd=60 + two)}
    (found,) = claims(grid)
    welch = stats.ttest_ind(one, -two, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    assert found.freedom == pytest.approx(welch.df)
    interval = welch.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low / 2, interval.high / 2))


def test_a_single_pair_is_the_paired_t_test_and_tost():
    student, kd = [70.0, 71.2, 70.5, 69.9, 70.8], [70.9, 71.6, 70.9, 70.6, 71.0]
    (found,) = claims({"only": group(student=student, kd=kd)})
    row = paired_difference(kd, student)
    assert (found.mean, found.low, found.high, found.p) == pytest.approx((row.mean, row.low, row.high, row.p))
    assert (found.pairs, found.n, found.verdict) == (1, 5, "better")
    assert found.p_holm == found.p
    assert found.low_random is None
    differences = np.subtract(kd, student)
    above = stats.ttest_1samp(differences, -0.3, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.3, alternative="less").pvalue
    assert found.p_equivalence == pytest.approx(max(above, below))
    assert found.detectable == pytest.approx(advertised_difference(row.std / math.sqrt(5), 4))
    assert found.detectable > row.detectable  # the row takes the spread for known


def test_pairs_that_share_the_lone_student_are_not_independent():
    """With the lone student's luck in both, the model is the paired test on the mean over the pairs."""
    rng = np.random.default_rng(7)
    student, first, second = rng.normal(70, 1, 6), rng.normal(71, 0.1, 6), rng.normal(71, 0.1, 6)
    (found,) = claims({"a": group(student=student, kd=first), "b": group(student=student, kd=second)})
    row = paired_difference((first + second) / 2, student)
    assert (found.low, found.high, found.p, found.freedom) == pytest.approx((row.low, row.high, row.p, 5))

    other = [cell(run.method, run.seed, run.top1, 20) for run in group(student=student, kd=second)]
    (apart,) = claims({"a": group(student=student, kd=first), "b": other})  # another network, by its size
    assert apart.freedom > 9
    assert apart.error < 0.8 * found.error


def test_a_teacher_free_method_shared_by_pairs_is_not_counted_twice():
    rng = np.random.default_rng(8)
    runs = group(student=rng.normal(70, 1, 5), tf=rng.normal(71, 1, 5))
    (once,), (twice,) = claims({"a": runs}), claims({"a": runs, "b": runs})
    assert (twice.mean, twice.low, twice.high) == pytest.approx((once.mean, once.low, once.high))


def test_holm_is_over_the_methods_and_the_detectable_size_at_its_first_step():
    rng = np.random.default_rng(9)
    runs = group(student=rng.normal(70, 0.3, 5), kd=rng.normal(71, 0.3, 5), at=rng.normal(70.4, 0.3, 5))
    alone, both = claims({"a": runs[:10]})[0], claims({"a": runs})
    assert [claim.method for claim in both] == ["kd", "at"]
    assert both[0].p == alone.p
    small, large = sorted(both, key=lambda claim: claim.p)
    assert (small.p_holm, large.p_holm) == pytest.approx((2 * small.p, max(2 * small.p, large.p)))
    equivalence = sorted((claim.p_equivalence, claim.p_equivalence_holm) for claim in both)
    assert equivalence[0][1] == pytest.approx(min(1, 2 * equivalence[0][0]))
    assert both[0].detectable == pytest.approx(advertised_difference(alone.error, 4, level=0.025))
    assert both[0].detectable > alone.detectable


def test_holm_against_its_definition():
    """A p-value is rejected at α exactly where walking down Holm's levels rejects it."""
    rng = np.random.default_rng(10)
    for _ in range(50):
        p_values = rng.uniform(0, 0.2, 6)
        for level in (0.01, 0.05, 0.3):
            rejected = set()
            for step, place in enumerate(np.argsort(p_values)):
                if p_values[place] >= level / (6 - step):
                    break
                rejected.add(int(place))
            assert {place for place, p in enumerate(holm(p_values)) if p < level} == rejected


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [(0.0, 0.3, "equivalent"), (0.2, 0.3, "equivalent"), (0.2, 0.1, "better"), (-1.0, 0.3, "worse")],
)
def test_equal_differences(shift, margin, verdict):
    student = [70.1, 70.2, 70.3, 70.7, 71.9]
    grid = {pair: group(student=student, kd=[top1 + shift for top1 in student]) for pair in ("a", "b")}
    (found,) = claims(grid, margin=margin)
    assert found.low == found.high == found.mean == pytest.approx(shift)
    assert (found.error, found.detectable, found.verdict) == (0.0, 0.0, verdict)


def test_a_sure_but_small_difference_is_equivalent():
    """0.15 ± a little: surely above zero, surely within the margin; the margin was fixed beforehand."""
    student, noise = np.array([70.1, 70.9, 70.3, 70.7, 71.9]), np.array([0.01, -0.01, 0.02, -0.02, 0.0])
    (found,) = claims({"a": group(student=student, kd=student + 0.15 + noise)})
    assert found.low > 0
    assert found.p_holm < 0.001
    assert found.verdict == "equivalent"
    (narrow,) = claims({"a": group(student=student, kd=student + 0.15 + noise)}, margin=0.1)
    assert narrow.verdict == "better"


def test_noise_is_undecided():
    (found,) = claims({"a": group(student=[70, 71, 72, 70, 71], kd=[71, 70, 71, 72, 70.5])})
    assert found.verdict == "undecided"


def test_too_few_seeds_in_one_pair_leave_the_claim_open():
    five = group(student=[70, 70.1, 70.3, 70.2, 70.4], kd=[75.2, 75, 75.1, 75.3, 75.2])
    four = group(student=[60, 60.2, 60.1, 60.3], kd=[64.1, 64.2, 64.1, 64.2, 64.3])
    (found,) = claims({"a": five, "b": four})
    assert (found.verdict, found.seeds, found.n) == ("not powered", 4, 9)
    assert found.p < 1e-6
    (found,) = claims({"a": five, "b": four[:1] + four[4:]})
    assert (found.low, found.p, found.p_holm, found.detectable, found.verdict) == (None,) * 4 + ("not powered",)
    assert found.mean == pytest.approx((4.96 + 4.1) / 2)


def test_a_pair_without_the_method_or_the_baseline_is_named():
    runs = group(student=[70, 70.1, 70.3, 70.2, 70.4], kd=[71.2, 71, 71.1, 71.3, 71.2], at=[70] * 5)
    without = {"no kd": [r for r in runs if r.method != "kd"], "no student": [r for r in runs if r.method != "student"]}
    kd, at = claims({"all": runs, **without, "failed": []})
    assert (kd.pairs, kd.missing) == (1, ("no kd", "no student", "failed"))
    assert (at.pairs, at.missing) == (2, ("no student", "failed"))
    assert kd.mean == pytest.approx(claims({"all": runs})[0].mean)


def test_only_seeds_in_common_count_and_a_method_without_any_has_no_claim():
    runs = [*group(student=[70.0, 71.0], kd=[71.0, 73.0, 99.0]), cell("late", 7, 80.0)]
    (found,) = claims({"a": runs})
    assert (found.method, found.n, found.mean) == ("kd", 2, 1.5)


def test_against_another_baseline_and_as_json():
    runs = group(student=[70, 70.1, 70.3, 70.2, 70.4], kd=[71.2, 71, 71.1, 71.3, 71.2])
    (forth,), (back,) = claims({"a": runs}), claims({"a": runs}, baseline="kd")
    assert (back.method, back.baseline, back.verdict) == ("student", "kd", "worse")
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert json.loads(json.dumps(asdict(back), allow_nan=False))["missing"] == []


def test_tallies_count_pairs_by_their_intervals():
    sure = group(kd=[70, 70.1, 70.3, 70.2, 70.4], icd=[71, 71.2, 71.3, 71.1, 71.4])
    unsure = group(kd=[70, 70.1, 70.3, 70.2, 70.4], icd=[70.1, 70, 70.5, 70.2, 70.3])
    grid = {"sure": sure, "unsure": unsure, "few": [run for run in sure if run.seed < 4], "none": unsure[:5]}
    found = tallies(grid, "kd")["icd"]
    assert found == {"wins": 1, "ties": 1, "losses": 0, "unpowered": 1, "pairs": 3, "higher": 3, "lower": 0}
    turned = tallies(grid, "icd")["kd"]
    assert (turned["losses"], turned["ties"], turned["lower"]) == (1, 1, 3)


@pytest.mark.parametrize(
    ("cells", "options", "words"),
    [
        ({}, {}, "no cells"),
        ({"a": group(kd=[1])}, {"baseline": "kdd"}, "did you mean 'kd'"),
        ({"a": group(student=[1]) * 2}, {}, "'student' seed 0 is given more than once"),
        ({"a": group(student=[math.nan])}, {}, "pair 'a', 'student' seed 0: top1 is nan"),
        ({"a": group(student=[1])}, {"margin": 0.0}, "margin"),
        ({"a": group(student=[1])}, {"margin": math.nan}, "margin"),
        ({"a": group(student=[1])}, {"level": 5.0}, "level"),
    ],
)
def test_errors(cells, options, words):
    with pytest.raises(ValueError, match=words):
        claims(cells, **options)


def test_errors_of_tallies_and_helpers():
    with pytest.raises(ValueError, match="the reference 'icd' ran in no pair"):
        tallies({"a": group(kd=[1])}, "icd")
    with pytest.raises(ValueError, match="p-value 1 is"):
        holm([0.1, 1.5])
    for error, freedom, power in ((1.0, 0, 0.8), (math.nan, 4, 0.8), (1.0, 4, 0.01)):
        with pytest.raises(ValueError, match=r"freedom|standard error|level"):
            advertised_difference(error, freedom, power=power)
