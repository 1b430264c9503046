"""Two passes over a batch: what the first one may not change, and what the second one must repeat."""

import copy
from dataclasses import replace

import pytest
import torch
from engine_kit import CLASSES, FIT, ROWS, Differences, Distance, Drawn, Dropout, Net, Normalised, Queue, example, make
from split_cases import SMALL
from split_formulas import Scene, formula_icd, mean
from torch import nn

from potstill.objectives import KD, CrossEntropy
from potstill.terms import Term


class Replay(nn.Module):
    """Multiplies by a given mask."""

    mask = 1.0

    def forward(self, x):
        return x * self.mask


def train(terms, *, micro, middle=None, steps=1, precision="float64", **kw):
    engine = make(
        terms,
        [example(step) for step in range(steps)],
        fit=replace(FIT, micro_batch=micro),
        precision=precision,
        middle=middle,
        **kw,
    )
    start = copy.deepcopy(engine.system.networks["student"]), copy.deepcopy([t.objective for t in engine.system.terms])
    engine.run()
    return engine, *start


@pytest.mark.parametrize("other", [None, "kd", "ce on another view"])
def test_second_pass_draws_the_same_dropout(other):
    """The gradient is that of one batch under the masks of the first pass, taken in a plain autograd call."""
    terms = [Term(SMALL, "embedding@other", "embedding@other")]
    more = {"kd": Term(KD, "output@other", "output@other"), "ce on another view": Term(CrossEntropy)}
    if other:
        terms = [more[other], *terms]
    engine, student, objectives = train(terms, micro=4, middle=Dropout())
    masks = engine.system.networks["student"].middle.masks
    parts = 4
    # First pass: the view that ICD reads. Second pass: all views, in the order in which the terms name them.
    views = 2 if other == "ce on another view" else 1
    assert len(masks) == parts * (1 + views)
    first = masks[:parts]
    again = masks[parts + views - 1 :: views]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(m.flatten().tolist()) for m in first}) == parts, "micro-batches share their dropout"

    student.middle = replay = Replay()
    scene = Scene(student, engine.sources["teacher"].module, objectives, example(0), {})
    scene.teacher.middle = nn.Identity()
    replay.mask = torch.cat(first)
    embedding = replay.mask * scene.hears(student, "other")[1]
    with torch.no_grad():
        taught = scene.hears(scene.teacher, "other")[1]
    total = formula_icd(objectives[-1], embedding, taught)
    if other == "kd":
        with torch.no_grad():
            answers = scene.hears(scene.teacher, "other")[2]
        total = total + mean(KD()(scene.hears(student, "other")[2], answers))
    elif other:
        replay.mask = torch.cat(masks[parts::2])
        answers = scene.hears(student)[2]
        total = total + nn.functional.cross_entropy(answers, example(0).main.label)
    expected = torch.autograd.grad(total, [student.body.weight, student.body.bias])
    trained = engine.system.networks["student"].body
    for found, right in zip((trained.weight.grad, trained.bias.grad), expected, strict=True):
        assert (found - right).abs().max() <= 1e-10 * right.abs().max()


def test_dropout_differs_between_steps_and_seeds():
    one, *_ = train([Term(CrossEntropy)], micro=None, middle=Dropout(), steps=2)
    two, *_ = train([Term(CrossEntropy)], micro=None, middle=Dropout(), steps=2)
    other, *_ = train([Term(CrossEntropy)], micro=None, middle=Dropout(), steps=2, seed=4)
    masks = [engine.system.networks["student"].middle.masks for engine in (one, two, other)]
    assert not torch.equal(masks[0][0], masks[0][1])
    assert all(torch.equal(a, b) for a, b in zip(masks[0], masks[1], strict=True))
    assert not torch.equal(masks[0][0], masks[2][0])


@pytest.mark.parametrize("terms", [[Term(SMALL)], [Term(CrossEntropy)], [Term(SMALL), Term(Normalised), Term(KD)]])
def test_running_statistics_move_once_per_micro_batch(terms):
    engine, student, _ = train(terms, micro=4, middle=nn.BatchNorm1d(5), precision="float32")
    student.train()
    edges = [0, 3, 7, 10, 14]
    for start, stop in zip(edges, edges[1:], strict=False):
        student(example(0).main.input[start:stop])
    for (name, found), right in zip(engine.system.networks["student"].named_buffers(), student.buffers(), strict=True):
        assert torch.equal(found, right), name


@pytest.mark.parametrize("micro", [None, 4])
def test_frozen_sources_run_once_per_micro_batch(micro):
    """Whatever reads them, and in both passes together; a view that no related term reads as well."""
    teacher, calls = Net(7, 2), []
    terms = [
        Term(CrossEntropy),
        Term(KD),
        Term(SMALL),
        Term(SMALL, "embedding@main", "hidden@main"),
        Term(Distance, "output@other", "output@other"),
    ]
    engine = make(terms, [example(0)], fit=replace(FIT, micro_batch=micro), teacher=teacher)
    teacher.register_forward_hook(lambda module, args, result: calls.append(len(result)))
    engine.run()
    parts = [3, 4, 3, 4] if micro else [ROWS]
    assert sorted(calls) == sorted(2 * parts)


def test_update_sees_the_weights_before_they_move():
    seen = []

    class Watching(Queue):
        def update(self, student, teacher, *, index):
            super().update(student, teacher, index=index)
            seen.append((weight.detach().clone(), student.clone(), torch.is_grad_enabled()))

    engine = make([Term(Watching), Term(SMALL)], [example(0), example(1)], fit=replace(FIT, micro_batch=4))
    weight = engine.system.networks["student"].body.weight
    states = [copy.deepcopy(engine.system.networks["student"])]
    engine.on_step = lambda progress: states.append(copy.deepcopy(engine.system.networks["student"]))
    engine.run()
    assert len(seen) == 2
    for step, (before, said, gradients) in enumerate(seen):
        assert torch.equal(before, states[step].body.weight)
        assert not torch.equal(before, states[step + 1].body.weight)
        right = torch.tanh(states[step].body(example(step).main.input))
        assert torch.allclose(said, right, atol=1e-6)
        assert not gradients
        assert not said.requires_grad


def test_draws_belong_to_samples_and_steps():
    def draws(micro, **kw):
        engine, *_ = train([Term(Drawn), Term(SMALL)], micro=micro, steps=2, **kw)
        found = torch.cat(engine.system.terms[0].objective.draws)
        return found[:ROWS], found[ROWS:]

    first, second = draws(None)
    assert all(torch.equal(a, b) for a, b in zip((first, second), draws(4), strict=True))
    assert len(set(first.tolist())) == ROWS
    assert not set(first.tolist()) & set(second.tolist())
    assert not torch.equal(first, draws(None, seed=4)[0])


def test_a_derived_view_needs_no_network():
    """Nothing runs on a view that `combine` makes, in either pass."""
    teacher, calls = Net(7, 2), []
    terms = [Term(SMALL, "embedding@difference", "embedding@difference"), Term(CrossEntropy)]
    engine = make(terms, [example(0)], task=Differences(), teacher=teacher, fit=replace(FIT, micro_batch=7))
    teacher.register_forward_hook(lambda module, args, result: calls.append(result.shape))
    engine.run()
    assert calls == [(7, CLASSES)] * 4  # two micro-batches of two views
