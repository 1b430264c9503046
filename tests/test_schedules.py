"""Schedules at the steps that matter."""

import pytest
import torch

from potstill.recipe import Fit
from potstill.schedules import Constant, Cosine, Linear, Milestones, at
from potstill.types import Progress


@pytest.mark.parametrize("steps", [1, 7, 782])
def test_milestones_are_repdistillers_epochs(steps):
    """240 epochs: the rate falls to a tenth from the first step of epochs 151, 181 and 211 (counted from 1)."""
    rates = {}
    for epoch in range(1, 241):
        for within in (0, steps - 1):
            progress = Progress((epoch - 1) * steps + within, epoch - 1, 240 * steps)
            rates.setdefault(epoch, set()).add(round(Milestones()(progress), 9))
    for first, last, rate in ((1, 150, 1.0), (151, 180, 0.1), (181, 210, 0.01), (211, 240, 0.001)):
        assert all(rates[epoch] == {rate} for epoch in range(first, last + 1))


def test_milestones_of_ones_own():
    schedule = Milestones((0.5,), gamma=0.2)
    assert [schedule(Progress(step, 0, 4)) for step in range(5)] == pytest.approx([1, 1, 0.2, 0.2, 0.2])


def test_cosine():
    values = [Cosine(floor=0.1)(Progress(step, 0, 100)) for step in range(101)]
    assert values[0] == 1
    assert values[50] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)
    assert Cosine()(Progress(120, 0, 100)) == pytest.approx(0)


def test_warm_up_rises_evenly_and_never_starts_at_zero():
    values = [Cosine(warmup=0.1)(Progress(step, 0, 100)) for step in range(101)]
    rises = [b - a for a, b in zip(values[:10], values[1:11], strict=True)]
    assert values[0] > 0
    assert rises == pytest.approx([rises[0]] * 10)
    assert values[10] == max(values) == 1
    assert values[55] == pytest.approx(0.5)


def test_linear_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert [Linear()(Progress(step, 0, 40)) for step in range(40)] == pytest.approx(rates)
    assert Linear()(Progress(41, 0, 40)) == 0


def test_linear_after_a_warm_up():
    values = [Linear(warmup=0.2)(Progress(step, 0, 100)) for step in range(101)]
    assert values[0] > 0
    assert values[20] == max(values) == 1
    assert values[60] == pytest.approx(0.5)
    assert values[100] == 0


@pytest.mark.parametrize(
    "schedule",
    [Milestones(), Cosine(), Cosine(warmup=1.0), Cosine(warmup=0.5), Linear(), Linear(warmup=1.0), Constant()],
)
def test_the_shortest_run(schedule):
    assert 0 < schedule(Progress(0, 0, 1)) <= 1
    assert hash(schedule) == hash(eval(repr(schedule)))


def test_a_weight_is_a_number_or_a_schedule():
    now = Progress(5, 0, 10)
    assert at(0.3, now) == 0.3
    assert at(Constant(2.0), now) == 2
    assert at(lambda progress: progress.fraction, now) == 0.5


@pytest.mark.parametrize(
    ("name", "kind"), [("milestones", Milestones), ("cosine", Cosine), ("linear", Linear), ("constant", Constant)]
)
def test_a_recipe_names_them(name, kind):
    assert isinstance(Fit(schedule=name).learning_rate(), kind)


def test_progress():
    assert Progress(3, 0, 12).fraction == 0.25
    assert Progress(15, 0, 12).fraction == 1
