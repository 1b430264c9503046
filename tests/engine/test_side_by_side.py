"""Many students for one teacher: each comes to what it would have come to alone, whatever happens to the others."""

import json
import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from kill_worker import Student, images
from torch import nn

from potstill import checkpoint
from potstill.cell import assemble
from potstill.data import Preprocess, Resident, batches
from potstill.examples import Examples, source
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Heard
from potstill.stacked import Stacked, choose, stacks
from potstill.tasks.classify import Classify
from potstill.together import groups, side_by_side
from potstill.types import DataInfo, Source

FIT = Fit(epochs=3, batch_size=10, lr=0.05, checkpoint_seconds=1e9)
FLOAT32 = Precision()
STEPS = 5
"""Of an epoch."""
MIXED = [(text, seed) for text in ("kd", "crd(memory=fifo)", "icd(width=4)", "kd~shuffled") for seed in (0, 1)]


def examples() -> Examples:
    data = images()
    info = DataInfo(len(data), FIT.batch_size, 5, data.labels)
    probe = next(iter(batches(data, 8)))
    return Examples(Resident(data, FIT.batch_size, seed=5), info, probe, lambda: batches(data, 32))


def taught(precision=FLOAT32):
    """A teacher, and the batches that it saw since."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build("small_cnn", num_classes=5, in_channels=1, width=4)
    data = images()
    teacher = source(
        network, next(iter(batches(data, 8))), trained=False, preprocess=Preprocess.of(data), precision=precision
    )
    sizes: list[int] = []
    network.register_forward_hook(lambda module, args, result: sizes.append(len(result)))
    return teacher, sizes


def plain(seed: int) -> nn.Module:
    """Without dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build("small_cnn", num_classes=5, in_channels=1, width=3)


def dropping(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Student()


def engines(which, teacher, lessons, folder=None, fits=(), make=dropping, precision=FLOAT32):
    """One for each (method, seed), assembled as a command does it; `fits` where they differ."""
    found = []
    for number, (text, seed) in enumerate(which):
        method = parse(text)
        found.append(
            assemble(
                make(seed),
                teacher if method.needs_teacher else None,
                method,
                lessons,
                fits[number] if fits else FIT,
                seed=seed,
                preprocess=Preprocess.of(images()),
                precision=precision,
                folder=folder / f"{number}" if folder else None,
            )
        )
    return found


def weights(engine):
    """Student and objectives, memory banks included."""
    return {name: value.clone() for name, value in engine.system.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@cache
def alone(text, seed):
    """Weights and history of a run by itself, with a teacher and a loader of its own."""
    (engine,) = engines([(text, seed)], taught()[0], examples())
    engine.run()
    return weights(engine), engine.history


def matches(engine, text, seed):
    expected, history = alone(text, seed)
    return same(weights(engine), expected) and engine.history == history


def start(which, folder=None, **kw):
    teacher, sizes = taught()
    heard = Heard(teacher)
    some = engines(which, heard, examples(), folder, **kw)
    sizes.clear()
    return some, heard, sizes


def test_side_by_side_is_what_each_would_have_been_alone(tmp_path):
    some, heard, sizes = start(MIXED, tmp_path)
    assert side_by_side(some, heard) == {}
    for engine, (text, seed) in zip(some, MIXED, strict=True):
        assert matches(engine, text, seed), (text, seed)
        rows = [json.loads(line) for line in (engine.folder / "metrics.jsonl").read_text().splitlines()]
        assert rows == alone(text, seed)[1]
    assert sizes == [FIT.batch_size] * FIT.epochs * STEPS  # once a batch, for eight students
    assert not same(weights(some[0]), weights(some[1]))
    row = json.loads((tmp_path / "0" / "timings.jsonl").read_text().splitlines()[0])
    assert row["side_by_side"] == len(MIXED)


def test_micro_batches_are_heard_once_too():
    which, fits = MIXED[2:6], [replace(FIT, micro_batch=4)] * 4
    some, heard, sizes = start(which, fits=fits)
    assert side_by_side(some, heard) == {}
    assert sizes == [3, 3, 4] * FIT.epochs * STEPS
    for engine, (text, seed), fit in zip(some, which, fits, strict=True):
        (single,) = engines([(text, seed)], taught()[0], examples(), fits=[fit])
        single.run()
        assert same(weights(engine), weights(single)), (text, seed)


class Killed(BaseException):
    pass


def test_killed_and_resumed(tmp_path):
    """Their last checkpoints lie at different steps: those ahead wait for the others."""
    which = MIXED[:6:2] + MIXED[1:2]
    fits = [replace(FIT, checkpoint_steps=steps) for steps in (2, 3, 7, 100)]

    def die(progress):
        if progress.step == 8:
            raise Killed

    some, heard, _ = start(which, tmp_path, fits=fits)
    some[2].on_step = die
    with pytest.raises(Killed):
        side_by_side(some, heard)
    saved = [checkpoint.read(tmp_path / str(n))["position"]["step"] for n in range(3)]
    assert saved == [6, 6, 7]
    assert not checkpoint.exists(tmp_path / "3")
    some, heard, sizes = start(which, tmp_path, fits=fits)
    assert side_by_side(some, heard, resume=True) == {}
    assert len(sizes) == FIT.epochs * STEPS  # the last of them begins again
    for engine, (text, seed) in zip(some, which, strict=True):
        assert matches(engine, text, seed), (text, seed)


def test_interrupted_and_resumed(tmp_path):
    some, heard, _ = start(MIXED[:3], tmp_path)
    some[0].on_step = lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 7 else None
    with pytest.raises(Interrupted):
        side_by_side(some, heard)
    assert [checkpoint.read(tmp_path / str(n))["position"]["step"] for n in range(3)] == [7, 7, 7]
    some, heard, _ = start(MIXED[:3], tmp_path)
    assert side_by_side(some, heard, resume=True) == {}
    assert all(matches(engine, *which) for engine, which in zip(some, MIXED, strict=False))


@pytest.mark.parametrize("stacked", [False, True])
def test_one_that_becomes_nan_stops_no_other(stacked, tmp_path):
    which = [("kd", 0), ("kd", 1), ("kd", 2)]
    fits = [FIT, replace(FIT, lr=1e30), FIT]
    some, heard, _ = start(which, tmp_path, fits=fits, make=plain)
    failed = side_by_side(some, heard, step=Stacked(some)) if stacked else side_by_side(some, heard)
    assert list(failed) == [some[1]]
    assert isinstance(failed[some[1]], ValueError)
    assert "became NaN or infinite in epoch" in str(failed[some[1]])
    assert len(some[1].history) < FIT.epochs
    for engine in (some[0], some[2]):
        assert len(engine.history) == FIT.epochs
        (single,) = engines([("kd", engine.seed)], taught()[0], examples(), make=plain)
        single.run()
        expected, found = weights(single), weights(engine)
        assert all(torch.allclose(found[name], value, atol=1e-4) for name, value in expected.items())
        assert stacked or same(weights(single), weights(engine))


def test_an_error_of_one_is_its_own():
    some, heard, _ = start(MIXED[:2])

    def fail(progress):
        raise RuntimeError("no space left")

    some[0].on_step = fail
    failed = side_by_side(some, heard)
    assert [str(error) for error in failed.values()] == ["no space left"]
    assert matches(some[1], *MIXED[1])


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-11), ("float32", 2e-4)])
def test_stacked_students_are_the_separate_ones(precision, tolerance):
    """Within rounding: methods that read other taps, one with a memory bank, one over the batch, and a control."""
    chosen = Precision.named(precision)
    which = [("kd", 0), ("kd", 1), ("crd(memory=fifo)", 0), ("icd(width=4)", 1), ("fitnet~shuffled", 2), ("student", 2)]
    teacher, sizes = taught(chosen)
    heard = Heard(teacher)
    averaged = replace(FIT, ema=0.9, clip=0.5, optimizer="sgd", checkpoint_steps=2)
    fits = [FIT, averaged, FIT, FIT, averaged, FIT]
    some = engines(which, heard, examples(), make=plain, precision=chosen, fits=fits)
    step = Stacked(some)
    assert step.groups == [some]
    forwards = []
    for engine in some:
        engine.system.networks["student"].register_forward_hook(lambda *_: forwards.append(1))
    sizes.clear()
    fit = FIT.epochs * STEPS
    for engine in some:
        engine.evaluate = None
    assert side_by_side(some, heard, step=step) == {}
    assert len(forwards) <= fit + 1  # one of them runs for all, and once more to prime
    assert len(sizes) == fit
    for engine, (text, seed), own in zip(some, which, fits, strict=True):
        (single,) = engines([(text, seed)], teacher, examples(), make=plain, precision=chosen, fits=[own])
        single.evaluate = None
        single.run()
        expected, found = weights(single), weights(engine)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=tolerance, atol=tolerance), (text, seed, name)
        exported = engine.student.state_dict()
        for name, value in single.student.state_dict().items():
            assert torch.allclose(exported[name], value, rtol=tolerance, atol=tolerance), (text, seed, name)
        logged = [[row["loss"] for row in one.history] for one in (engine, single)]
        assert logged[0] == pytest.approx(logged[1], rel=tolerance)


def test_stacked_killed_and_resumed(tmp_path):
    """From checkpoints of different steps to the bits of the same stack, not killed."""
    which = [("kd", 0), ("icd(width=4)", 0), ("kd", 1)]
    fits = [replace(FIT, checkpoint_steps=steps) for steps in (2, 7, 100)]
    whole, heard, _ = start(which, make=plain, fits=fits)
    assert side_by_side(whole, heard, step=Stacked(whole)) == {}

    def die(progress):
        if progress.step == 8:
            raise Killed

    some, heard, _ = start(which, tmp_path, make=plain, fits=fits)
    some[2].on_step = die
    with pytest.raises(Killed):
        side_by_side(some, heard, step=Stacked(some))
    some, heard, _ = start(which, tmp_path, make=plain, fits=fits)
    assert side_by_side(some, heard, resume=True, step=Stacked(some)) == {}
    for found, expected in zip(some, whole, strict=True):
        assert same(weights(found), weights(expected))
        assert found.history == expected.history


def test_what_cannot_be_stacked_goes_in_turn():
    """Dropout draws for each student by itself, and other networks are other networks."""
    some, heard, _ = start(MIXED[:2])
    assert stacks(some) == []
    assert side_by_side(some, heard, step=Stacked(some)) == {}
    assert all(matches(engine, *which) for engine, which in zip(some, MIXED, strict=False))
    lessons = examples()
    kinds = engines([("kd", 0), ("kd", 1)], heard, lessons, make=plain)
    kinds += engines([("kd", 0)], heard, lessons, fits=[replace(FIT, micro_batch=4)], make=plain)
    kinds += engines([("kd", 0)], heard, lessons, make=dropping)
    assert stacks(kinds) == [kinds[:2]]


def test_stacking_is_measured_on_throw_away_engines():
    heard, lessons = Heard(taught()[0]), examples()
    found = choose(
        lambda: engines([("kd", 0), ("kd", 1)], heard, lessons, make=plain), next(iter(lessons.loader.epoch(0)))
    )
    assert found["stacked"] in (True, False)
    assert "a step of 2 students: in turn " in found["why"]


def test_a_source_is_asked_again_about_anything_else():
    teacher, sizes = taught()
    heard, (batch, other) = Heard(teacher), list(examples().loader.epoch(0))[:2]
    task = Classify()
    heard.expect("main", ["embedding"])
    sizes.clear()
    for part in (batch, batch.split(1)[0], batch):
        said = heard(task, part, "main", ["embedding"])
        assert torch.equal(said.output, teacher(task, batch, "main", []).output)
    assert len(sizes) == 1 + 3
    sizes.clear()
    heard(task, batch, "main", ["stage1"])  # nobody had said so
    heard(task, other, "main", [])
    heard(task, other.split(2)[1], "main", [])
    assert len(sizes) == 3
    sizes.clear()
    before = heard(task, other, "main", []).output
    other.main.input.zero_()
    assert not torch.equal(heard(task, other, "main", []).output, before)
    heard.forget()
    heard(task, other, "main", [])
    assert len(sizes) == 2
    assert isinstance(heard, Source)


def test_one_loader_for_all():
    heard = Heard(taught()[0])
    some = engines(MIXED[:1], heard, examples()) + engines(MIXED[1:2], heard, examples())
    with pytest.raises(ValueError, match="one loader; assemble them from the same Examples"):
        side_by_side(some, heard)


def test_groups():
    assert groups([], 4) == []
    assert [len(group) for group in groups(range(17), 8)] == [5, 6, 6]


def test_a_single_run_is_the_group_of_one(tmp_path):
    some, heard, _ = start(MIXED[:1], Path(tmp_path))
    assert side_by_side(some, heard) == {}
    assert matches(some[0], *MIXED[0])
    assert "side_by_side" not in (tmp_path / "0" / "timings.jsonl").read_text()
