"""What heat maps, calibration and maps are drawn from, against formulas written in another way."""

import numpy as np
import pytest
from scipy.special import softmax

from potstill.evaluation import behaviour


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("samples", "classes"), [(128, 10), (2, 3), (5, 40)])
def test_correlation_is_pearsons_up_to_the_divisor(rng, samples, classes):
    logits = (rng.normal(size=(samples, classes)) @ rng.normal(size=(classes, classes)) + 3).astype(np.float32)
    expected = np.corrcoef(logits.astype(np.float64), rowvar=False) * (samples - 1) / samples
    np.testing.assert_allclose(behaviour.correlation(logits), expected, atol=1e-10)


def test_correlation_as_the_script_of_2024_computed_it(rng):
    import torch

    logits = torch.from_numpy(rng.normal(size=(128, 7)))
    z = (logits - logits.mean(dim=0)) / logits.std(dim=0)
    expected = torch.mm(z.T, z) / z.size(0)
    np.testing.assert_allclose(behaviour.correlation(logits.numpy()), expected.numpy(), atol=1e-12)


def test_a_class_that_never_moves_correlates_with_none(rng):
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    logits[:, 2] = 0.1
    found = behaviour.correlation(logits)
    assert np.isfinite(found).all()
    assert not found[2].any()
    assert not found[:, 2].any()
    assert found[0, 0] == pytest.approx(49 / 50)


def test_one_sample_has_no_correlation():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        behaviour.correlation(np.ones((1, 3)))


def test_the_difference_is_teacher_minus_student():
    up, down = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(behaviour.correlation_difference(up, down), [[0, 1], [1, 0]], atol=1e-12)


def test_class_means(rng):
    logits, labels = rng.normal(size=(60, 5)), rng.integers(0, 4, 60)  # nothing of class 4
    found = behaviour.class_means(logits, labels)
    for k in range(4):
        np.testing.assert_allclose(found[k], logits[labels == k].mean(0))
    assert np.isnan(found[4]).all()


def test_class_mean_difference(rng):
    teacher, student = rng.normal(size=(2, 80, 4))
    labels = np.repeat(np.arange(4), 20)
    found = behaviour.class_mean_difference(teacher, student, labels)
    for k in range(4):
        for other in range(4):
            gap = abs(teacher[labels == k, other].mean() - student[labels == k, other].mean())
            assert found[k, other] == pytest.approx(0.0 if k == other else gap)


@pytest.mark.parametrize(("samples", "bins"), [(1, 15), (300, 15), (300, 4)])
def test_reliability(rng, samples, bins):
    logits = rng.normal(size=(samples, 6)) * 2
    labels = np.where(rng.random(samples) < 0.6, logits.argmax(1), rng.integers(0, 6, samples))
    probabilities = softmax(logits, axis=1)
    found, row = behaviour.reliability(logits, labels, bins), 0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = (probabilities.max(1) > low) & (probabilities.max(1) <= high)
        if inside.any():
            assert (found["low"][row], found["high"][row]) == pytest.approx((low, high))
            assert found["count"][row] == inside.sum()
            assert found["confidence"][row] == pytest.approx(probabilities[inside].max(1).mean())
            assert found["accuracy"][row] == pytest.approx((probabilities[inside].argmax(1) == labels[inside]).mean())
            row += 1
    assert row == len(found["count"])
    assert found["count"].sum() == samples


def test_the_surest_answer_is_in_the_last_bin():
    found = behaviour.reliability(np.array([[800.0, -800.0], [0.0, 0.0]]), np.array([0, 1]), bins=10)
    assert found["confidence"].tolist() == [0.5, 1.0]
    assert found["high"].tolist() == [0.5, 1.0]
    assert found["accuracy"].tolist() == [0.0, 1.0]


def test_chosen_samples():
    assert behaviour.chosen(7, 100).tolist() == list(range(7))
    some = behaviour.chosen(1000, 50)
    assert len(set(some.tolist())) == 50
    assert (np.diff(some) > 0).all()
    assert some.tolist() == behaviour.chosen(1000, 50).tolist()
    assert some.min() < 200 < 800 < some.max()


def test_a_map_keeps_neighbours(rng):
    labels = rng.integers(0, 4, 150)
    values = rng.normal(size=(4, 12))[labels] * 8 + rng.normal(size=(150, 12))
    found = behaviour.tsne(values)
    apart = ((found[:, None] - found[None]) ** 2).sum(2) + 1e9 * np.eye(150)
    assert (labels[apart.argmin(1)] == labels).all()
    np.testing.assert_array_equal(found, behaviour.tsne(values))


@pytest.mark.parametrize("samples", [5, 6, 30])
def test_maps_of_few_samples_of_one_number(rng, samples):
    assert np.isfinite(behaviour.tsne(rng.normal(size=(samples, 1)))).all()


def test_a_map_of_equal_samples_and_of_next_to_none():
    assert behaviour.tsne(np.ones((20, 3))).shape == (20, 2)
    assert behaviour.tsne(np.ones((4, 3))) is None
