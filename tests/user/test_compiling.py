"""Compiled networks: the same numbers, taps and files; when `auto` takes them, and what is said where it cannot.

`aot_eager` traces as the usual backend does, hooks and batch norm included, and leaves out the C++ compiler. Networks
are a user's: Potstill's own check their shapes in tests, which cannot be traced.
"""

import json
from pathlib import Path

import pytest
import torch
from networks import PlainCNN, bars
from torch._dynamo.utils import counters

from potstill import Fit, compiling, parse
from potstill.cell import assemble
from potstill.examples import Examples, source
from potstill.precision import Choice, Precision
from potstill.runs import settle_precision
from potstill.sharding import _over
from potstill.stacked import stacks
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, DataInfo, View

COMPILED = Precision(channels_last=True, compiled=True)
CPU = torch.device("cpu")


@pytest.fixture
def traced(monkeypatch):
    """Compiling without a compiler; returns how many graphs there are."""
    torch._dynamo.reset()
    counters.clear()
    function = torch.compile(compiling._forward, backend="aot_eager", dynamic=False)
    monkeypatch.setattr(compiling, "_compiled", lambda: function)
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def batch(rows=6, seed=0):
    x, y = bars(rows, seed)
    return Batch({MAIN: View(x, torch.arange(rows), y)})


def network(seed):
    torch.manual_seed(seed)
    return PlainCNN().train()


def speaker(precision, seed):
    return source(network(seed), batch(), trained=True, preprocess=None, precision=precision)


def test_taps_gradients_and_statistics_are_those_of_the_network(traced):
    """Also when other taps, and another network of the same architecture, come in between."""
    asked = [("norm", "embedding"), ("embedding",), (), ("norm", "embedding")]
    for seed in (0, 1):
        plain, other = (speaker(Precision(channels_last=True, compiled=c), seed) for c in (False, True))
        for taps in asked:
            said = []
            for one in (plain, other):
                one.module.zero_grad()
                with compiling.step(True):
                    said.append(one(Classify(), batch(seed=seed), MAIN, taps))
                (said[-1].output.square().sum() + sum(tap.square().mean() for tap in said[-1].taps.values())).backward()
            torch.testing.assert_close(said[1].output, said[0].output)
            assert list(said[1].taps) == list(taps)
            torch.testing.assert_close(dict(said[1].taps), dict(said[0].taps))
            gradients = [
                {n: p.grad for n, p in one.module.named_parameters() if p.grad is not None} for one in (other, plain)
            ]
            torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.module.state_dict(), plain.module.state_dict())
    assert traced() == 3  # one a set of taps; the second network shares them


class Loader:
    steps, exact, batch_size = 2, True, 6

    def epoch(self, epoch, start=0):
        return [batch(6, 1), batch(4, 2)][start:]


def engine(precision, folder=None):
    guide = source(network(1), batch(), trained=False, preprocess=None, precision=precision)
    fit = Fit(epochs=2, batch_size=6, lr=0.01, checkpoint_steps=1)
    examples = Examples(Loader(), DataInfo(10, 6, 3), batch(), lambda: [batch(5, 3)])
    return assemble(network(2), guide, parse("icd"), examples, fit, precision=precision, folder=folder)


def test_only_whole_batches_of_training_are_compiled_and_a_stopped_run_goes_on_with_the_same_bits(traced, tmp_path):
    whole = engine(COMPILED, tmp_path / "whole")
    whole.run()
    assert traced() == 2  # teacher and student; neither the smaller last batch nor evaluation
    plain = engine(Precision(channels_last=True))
    plain.run()
    torch.testing.assert_close(whole.student.state_dict(), plain.student.state_dict(), rtol=1e-3, atol=1e-4)
    assert [*whole.student.state_dict()] == [*plain.student.state_dict()]

    for done in range(1, 4):  # every place to stop at
        stopped = engine(COMPILED, tmp_path / str(done))
        stopped.start()
        for number in range(done):
            stopped.train_on(Loader().epoch(0)[number % 2])
            if number == 1:
                stopped.end_epoch(0.0, 0.0)
        stopped.save()
        torch._dynamo.reset()  # another process would compile again
        resumed = engine(COMPILED, tmp_path / str(done))
        resumed.run(resume=True)
        for a, b in zip(whole.student.state_dict().values(), resumed.student.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert resumed.history == whole.history


def test_compiled_students_are_not_stacked():
    assert stacks([engine(Precision()), engine(Precision())])
    assert not stacks([engine(COMPILED), engine(COMPILED)])


def test_a_compiled_student_is_not_sharded():
    student = speaker(COMPILED, 0)
    with pytest.raises(ValueError, match=r"fit.shard: the source 'student' runs compiled, .*without -compile"):
        _over("student", student, torch.nn.ModuleDict({"student": network(0)}))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless somebody sleeps."""
    now = [0.0]
    for module in ("compiling", "precision"):
        monkeypatch.setattr(f"potstill.{module}.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(compiling, "missing", lambda: None)
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def considered(clock, steps, first=40.0, later=0.08):
    """What `auto` says where an uncompiled step takes 0.1 s."""
    taken = iter([first])

    def step(precision):
        assert precision == Precision(channels_last=True, compiled=True)
        return lambda: clock(next(taken, later))

    plain = Precision(channels_last=True)
    return compiling.consider(Choice(plain, {"float32": 130.0, plain.name: 100.0}), step, steps, CPU)


def test_auto_compiles_where_a_student_trains_long_enough(clock):
    long = considered(clock, steps=20_000)
    assert long.precision.name == "float32-channels-last-compile"
    assert str(long) == "float32-channels-last-compile (80.0 ms a step; float32 130.0 ms, 1.6x)"
    assert long.compile == "pays: 80.0 ms a step for 100.0, 40 s to compile, 400 s saved"
    assert considered(clock, 20_000, later=0.097).compile.startswith("does not pay: 97.0 ms")
    assert not considered(clock, 20_000, first=250.0).precision.compiled


def test_auto_does_not_try_in_a_short_run_or_without_a_compiler(clock, monkeypatch):
    def never(precision):
        raise AssertionError("compiled")

    plain = Choice(Precision(), {"float32": 100.0, "bf16": 200.0})
    short = compiling.consider(plain, never, 1000, CPU)
    assert (short.precision, short.milliseconds) == (plain.precision, plain.milliseconds)
    assert short.compile == "not tried: a student trains for about 100 s, below 1800 s"
    failed = compiling.consider(plain, never, 100_000, CPU)
    assert failed.precision == plain.precision
    assert failed.compile == "fails: AssertionError: compiled"
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "there is no C++ compiler (no-such-compiler)" in compiling.consider(plain, never, 100_000, CPU).compile


def test_by_hand_it_is_recorded_and_refused_where_nothing_can_be_compiled(shell, monkeypatch, tmp_path):
    name = "float32-channels-last-compile"
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, _, err = shell("distill", "small.py", "--out", "run", "--precision", name)
    assert status == 1
    assert f"precision {name!r} compiles the networks, and there is no C++ compiler (no-such-compiler)" in err
    assert not Path("run").exists()

    def never():
        raise AssertionError("measured")

    monkeypatch.setattr("potstill.runs.missing", lambda: None)
    assert settle_precision(tmp_path, name, never) == (COMPILED, f"{name}, as asked")
    assert json.loads((tmp_path / "precision.json").read_text()) == {"choice": name, "why": f"{name}, as asked"}
    assert settle_precision(tmp_path, "auto", never) == (COMPILED, f"{name}, as asked")
    monkeypatch.setattr("potstill.runs.missing", lambda: "there is none")
    with pytest.raises(ValueError, match="and there is none"):
        settle_precision(tmp_path, "auto", never)


def test_what_auto_found_about_compiling_is_in_the_record(tmp_path):
    found = Choice(COMPILED, {"float32": 3.0, COMPILED.name: 2.0}, "pays: it was measured")
    settle_precision(tmp_path, "auto", lambda: found)
    record = json.loads((tmp_path / "precision.json").read_text())
    assert record == {"choice": COMPILED.name, "why": str(found), "compile": "pays: it was measured"}
