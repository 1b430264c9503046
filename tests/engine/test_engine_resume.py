"""Callbacks, Ctrl-C and checkpoints in one process (killed processes: test_engine_killed.py)."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from engine_kit import FIT, Given, example, make

from potstill import checkpoint
from potstill.callbacks import Callback
from potstill.loop import Interrupted, interruptible
from potstill.objectives import CrossEntropy
from potstill.terms import Term

CE = [Term(CrossEntropy)]


def batches(count):
    return [example(step) for step in range(count)]


def weights(engine):
    return [p.detach().clone() for p in engine.system.networks["student"].parameters()]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


class Plateau(Callback):
    """Halves the rate, keeps the best weights, and goes back to them; remembers how often it was asked."""

    def __init__(self):
        self.asked, self.best = 0, {}

    def on_evaluate(self, engine, metrics):
        self.asked += 1
        metrics["asked"] = self.asked
        student = engine.system.networks["student"]
        if self.asked == 1:
            self.best = {name: value.clone() for name, value in student.state_dict().items()}
        if self.asked == 2:
            engine.lr_factor = 0.5
            student.load_state_dict(self.best)
        if self.asked == 4:
            engine.stop = True

    def state_dict(self):
        return {"asked": self.asked, "best": self.best}

    def load_state_dict(self, state):
        self.asked, self.best = state["asked"], state["best"]


def plateau(folder, **kw):
    return make(
        CE,
        batches(2),
        fit=replace(FIT, epochs=9, checkpoint_steps=1),
        evaluate=lambda s: {},
        callbacks=[Plateau()],
        folder=folder,
        **kw,
    )


def test_callback_stops_rescales_and_reloads(tmp_path):
    states, rates = [], []

    def look(progress):
        states.append(weights(engine))
        rates.append(engine.optimizer.param_groups[0]["lr"])

    engine = plateau(None, on_step=look)
    history = engine.run().history
    assert [row["asked"] for row in history] == [1, 2, 3, 4]
    assert rates == pytest.approx([0.1] * 4 + [0.05] * 4)
    assert [row["lr"] for row in history] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    # The fifth step begins at the weights after the second.
    again = make(CE, batches(2)[:1], fit=replace(FIT, lr=0.05))
    for parameter, value in zip(again.system.networks["student"].parameters(), states[1], strict=True):
        parameter.data.copy_(value)
    again.run()
    assert same(states[4], weights(again))


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7])
def test_callback_is_resumed(step, tmp_path):
    whole = plateau(tmp_path / "whole")
    whole.run()

    def press(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        plateau(tmp_path / "parts", on_step=press).run()
    rest = plateau(tmp_path / "parts")
    rest.run(resume=True)
    assert same(weights(rest), weights(whole))
    assert rest.callbacks[0].asked == 4
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_not_run_again(tmp_path):
    plateau(tmp_path).run()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = plateau(tmp_path, on_step=lambda progress: pytest.fail("a step was taken"))
    assert len(again.run(resume=True).history) == 4
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


class Listing(Given):
    """A loader that tells what it was asked for."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.asked = []

    def epoch(self, epoch, start=0):
        self.asked.append((epoch, start))
        return super().epoch(epoch, start)


@pytest.mark.parametrize(("step", "done"), [(1, 0), (3, 0), (4, 1), (8, 2)])
def test_foreign_loader_resumes_at_an_epoch(step, done, tmp_path):
    """What was done of the broken epoch is dropped, so no sample is seen twice or left out."""
    fit = replace(FIT, epochs=3, checkpoint_steps=1)

    def run(folder, on_step=None):
        engine = make(CE, batches(3), fit=fit, folder=folder, exact=False, on_step=on_step)
        engine.loader = Listing(engine.loader.batches, exact=False)
        return engine

    whole = run(tmp_path / "whole")
    whole.run()

    def press(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    broken = run(tmp_path / "parts", press)
    with pytest.raises(Interrupted):
        broken.run()
    rest = run(tmp_path / "parts")
    rest.run(resume=True)
    assert rest.loader.asked == [(epoch, 0) for epoch in range(done, 3)]
    assert rest.step == 9
    assert same(weights(rest), weights(whole))


def test_interrupted_twice_is_at_once():
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as pressed:
        assert not pressed()
        os.kill(os.getpid(), signal.SIGINT)
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(CE, batches(2), fit=replace(FIT, checkpoint_steps=1)).run(resume=True)
    assert not list(tmp_path.iterdir())


def test_checkpoints_leave_no_other_files(tmp_path):
    make(CE, batches(2), fit=replace(FIT, checkpoint_steps=1), folder=tmp_path).run()
    found = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path) for path in found} == {str(checkpoint.STATE), "metrics.jsonl", "timings.jsonl"}
