"""What a run does besides its gradient: rates, clipping, averaging, metrics, evaluation, errors."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from engine_kit import FIT, Distance, Given, Net, example, make
from split_cases import SMALL
from torch import nn

from potstill.engine import Engine
from potstill.objectives import KD, CrossEntropy
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.terms import Term
from potstill.types import DataInfo, Objective
from potstill.wiring import wire

CE = [Term(CrossEntropy)]


def batches(count):
    return [example(step) for step in range(count)]


def weights(engine):
    return [p.detach().clone() for p in engine.system.networks["student"].parameters()]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_milestones_fall_at_their_steps():
    """Ten epochs of three steps; the rate drops after 40 % and 70 %, of the run and not of an epoch."""
    rates = []
    fit = replace(FIT, epochs=10, schedule="milestones", milestones=(0.4, 0.7))
    engine = make(CE, batches(3), fit=fit, on_step=lambda p: rates.append(engine.optimizer.param_groups[0]["lr"]))
    history = engine.run().history
    assert rates == pytest.approx([0.1] * 12 + [0.01] * 9 + [0.001] * 9)
    assert [row["lr"] for row in history] == pytest.approx([0.1] * 4 + [0.01] * 3 + [0.001] * 3)
    assert [row["step"] for row in history] == list(range(3, 31, 3))


def test_cosine_warms_up_and_ends_low():
    rates = []
    fit = replace(FIT, epochs=10, schedule="cosine", warmup=0.2)
    engine = make(CE, batches(2), fit=fit, on_step=lambda p: rates.append(engine.optimizer.param_groups[0]["lr"]))
    engine.run()
    assert 0 < rates[0] < rates[3] < 0.1
    assert max(rates) == rates[4] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.002


def test_sgd_with_momentum_decay_and_clipping():
    """Against PyTorch's formulas, over the student and the objectives' heads together."""
    fit = replace(FIT, momentum=0.9, weight_decay=0.01, clip=0.2)
    engine = make([Term(SMALL), Term(CrossEntropy)], batches(4), fit=fit)
    parameters = list(engine.system.parameters())
    before, norms = [p.detach().clone() for p in parameters], []
    velocity = [torch.zeros_like(p) for p in parameters]

    def follow(progress):
        gradients = [p.grad for p in parameters]
        norms.append(torch.cat([g.flatten() for g in gradients if g is not None]).norm().item())
        for start, speed, gradient in zip(before, velocity, gradients, strict=True):
            if gradient is not None:
                speed.mul_(0.9).add_(gradient + 0.01 * start)
                start.sub_(0.1 * speed)

    engine.on_step = follow
    engine.run()
    assert norms == pytest.approx([0.2] * 4, rel=1e-4)
    for found, right in zip(parameters, before, strict=True):
        torch.testing.assert_close(found.detach(), right)
    loose = make([Term(SMALL), Term(CrossEntropy)], batches(4), fit=replace(fit, clip=1e6))
    loose.run()
    assert not same(weights(engine), weights(loose))


def test_adamw_decays_and_moves():
    engine = make(CE, batches(1), fit=replace(FIT, optimizer="adamw", lr=0.01, weight_decay=0.5))
    before = engine.system.networks["student"].fc.weight.detach().clone()
    engine.run()
    after = engine.system.networks["student"].fc.weight
    # The first step of Adam is the rate times the sign of the gradient; the decay is the rate times the weight.
    right = before * (1 - 0.01 * 0.5) - 0.01 * after.grad.sign()
    torch.testing.assert_close(after.detach(), right, atol=1e-5, rtol=0)


def test_average_is_evaluated_and_exported():
    seen = []
    engine = make(
        CE,
        batches(3),
        fit=replace(FIT, epochs=2, ema=0.5),
        middle=nn.BatchNorm1d(5),
        evaluate=lambda student: seen.append(copy.deepcopy(student.module.state_dict())) or {},
    )
    average = None

    def follow(progress):
        nonlocal average
        now = [p.detach() for p in engine.system.networks["student"].parameters()]
        average = (
            [p.clone() for p in now]
            if average is None
            else [0.5 * a + 0.5 * p for a, p in zip(average, now, strict=True)]
        )

    engine.on_step = follow
    engine.run()
    exported = engine.student.state_dict()
    assert len(seen) == 2
    assert all(torch.equal(seen[-1][name], value) for name, value in exported.items())
    for found, right in zip(engine.student.parameters(), average, strict=True):
        torch.testing.assert_close(found.detach(), right)
    assert not same(engine.student.parameters(), weights(engine))
    statistics = engine.system.networks["student"].middle.state_dict()
    assert torch.equal(exported["middle.running_var"], statistics["running_var"])


def test_metrics_are_means_over_the_epoch(tmp_path):
    """With the weights held still, the rows are the plain means, written as they are returned."""
    engine = make([Term(KD, weight=0.5), *CE], batches(3), fit=replace(FIT, lr=1e-30, epochs=2), folder=tmp_path)
    result = engine.run()
    student, teacher = engine.sources["student"].module, engine.sources["teacher"].module
    ce = [nn.functional.cross_entropy(student(b.main.input), b.main.label).item() for b in batches(3)]
    kd = [KD()(student(b.main.input), teacher(b.main.input)).mean().item() for b in batches(3)]
    row = result.history[1]
    assert row["terms"] == pytest.approx({"kd": sum(kd) / 3, "crossentropy": sum(ce) / 3}, rel=1e-5)
    assert row["loss"] == pytest.approx(0.5 * sum(kd) / 3 + sum(ce) / 3, rel=1e-5)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    timings = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [(t["epoch"], t["steps"]) for t in timings] == [(1, 3), (2, 3)]
    assert result.seconds > 0


def test_evaluates_every_so_often_and_at_the_end():
    modes = []
    engine = make(
        CE,
        batches(1),
        fit=replace(FIT, epochs=7, evaluate_every=3),
        evaluate=lambda s: modes.append(s) or {"top1": 1.0},
    )
    history = engine.run().history
    assert [row["epoch"] for row in history if "top1" in row] == [3, 6, 7]


class Poison(Objective):
    """NaN for a sample that only one batch has."""

    needs = ("index",)

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, student, teacher, *, index):
        return (student - teacher).square().sum(1) * torch.where(index == self.index, torch.nan, 1.0)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_loss_of_nan_names_its_term(step):
    """Also where other terms stand in front, which are NaN one step later."""
    only = set(example(step).main.index.tolist())
    for other in range(5):
        if other != step:
            only -= set(example(other).main.index.tolist())
    poison = Term(Poison(min(only)), name="bad apple")
    engine = make([Term(CrossEntropy), poison, Term(KD)], batches(5), fit=replace(FIT, epochs=3))
    with pytest.raises(
        ValueError, match=r"term 'bad apple' became NaN or infinite in epoch 1; lower the learning rate"
    ):
        engine.run()


def test_nothing_to_train():
    engine = make(CE, batches(1))
    engine.system.networks["student"].requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        engine.run()


def test_several_steps_of_one_batch(tmp_path):
    """A task that makes two training batches of each: twice the steps, and resumed between loader batches."""

    class Halves(Classify):
        steps_per_batch = 2

        def prepare(self, batch, sources, progress, seed):
            return batch.split(2)

    rates = []
    engine = make(
        [Term(Distance)],
        batches(2),
        task=Halves(),
        fit=replace(FIT, schedule="milestones", milestones=(0.5,)),
        on_step=lambda progress: rates.append((progress.step, engine.optimizer.param_groups[0]["lr"])),
    )
    row = engine.run().history[0]
    assert row["step"] == engine.total == 4
    assert rates == [(1, 0.1), (2, 0.1), (3, pytest.approx(0.01)), (4, pytest.approx(0.01))]


def test_each_trained_source_has_its_group():
    """Peers that teach each other: both move, each from its own side of the loss."""
    engine = make(CE, batches(1))
    peer = Network(Net(5, 9), trained=True)
    sources = {"student": engine.sources["student"], "peer": peer}
    terms = [Term(KD, "student:output", "peer:output", name="down"), Term(KD, "peer:output", "student:output")]
    wired = wire(terms, sources, Classify(), example(0), DataInfo(100, 14, 4))
    both = Engine(task=Classify(), sources=sources, terms=wired, loader=Given(batches(1)), fit=FIT)
    start = [copy.deepcopy(source.module) for source in sources.values()]
    both.run()
    assert len(both.optimizer.param_groups) == 2
    for first, second, source in ((0, 1, sources["student"]), (1, 0, peer)):
        loss = KD()(start[first](example(0).main.input), start[second](example(0).main.input).detach()).mean()
        right = torch.autograd.grad(loss, start[first].fc.weight)[0]
        torch.testing.assert_close(source.module.fc.weight.grad, right)
