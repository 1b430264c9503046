"""Temperature scaling and the Brier score, where the answer is known."""

import math

import pytest
import torch

from potstill.evaluation.calibration import HOTTEST, brier, split, temperature
from potstill.evaluation.fidelity import calibration


def test_a_temperature_is_found_again():
    """Labels drawn from softmax(z); the network says 3 z. Then T = 3 makes it right, and ECE is about 0."""
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    found = temperature(3 * honest, labels)
    assert found == pytest.approx(3.0, rel=0.05)
    before, after = calibration(3 * honest, labels), calibration(3 * honest / found, labels)
    assert before.ece > 10
    assert after.ece < 1.5
    assert after.nll < before.nll
    assert brier(3 * honest / found, labels) < brier(3 * honest, labels)
    nearby = [calibration(3 * honest / (found * by), labels).nll for by in (0.99, 1.01)]
    assert after.nll < min(nearby)


def test_a_temperature_in_closed_form():
    """All say 5 to 0 and nine in ten are right: softmax(5 / T) = 0.9."""
    logits = torch.tensor([[5.0, 0.0]] * 10)
    assert temperature(logits, torch.tensor([0] * 9 + [1])) == pytest.approx(5 / math.log(9), rel=1e-6)


def test_where_there_is_no_best_temperature():
    logits = torch.tensor([[5.0, 0.0], [0.0, 3.0]])
    assert temperature(logits, torch.tensor([0, 1])) == 1 / HOTTEST
    assert temperature(logits, torch.tensor([1, 0])) == HOTTEST


def test_brier():
    assert brier(torch.tensor([[60.0, 0.0], [0.0, 60.0]]), torch.tensor([0, 1])) == pytest.approx(0)
    assert brier(torch.tensor([[60.0, 0.0]]), torch.tensor([1])) == pytest.approx(2)
    assert brier(torch.zeros(3, 4), torch.tensor([0, 1, 2])) == pytest.approx(0.75)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="not finite"):
        temperature(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="at least one sample"):
        temperature(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="on both sides"):
        split(2, 0.1, torch.arange(2))
