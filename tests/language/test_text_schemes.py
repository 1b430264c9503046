"""Every method for language models through the same checks: it trains, goes on after a kill, needs its true teacher."""

import copy
import json
import multiprocessing
import os
import signal

import pytest
import torch
from text_runs_kit import World, same, weights
from torch import nn

import potstill
from potstill import checkpoint
from potstill.loop import Interrupted
from potstill.methods import parse

CASES = {
    "distillm": "distillm(tokens=4)",
    "distillm, the student writes": "distillm(start=0.8,capacity=10,tokens=4)",
    "gkd": "gkd(tokens=4)",
    "imitkd": "imitkd(tokens=4)",
    "imitkd, exponential": "imitkd(schedule=exponential,tokens=4)",
    "minillm": "minillm(inner=2,tokens=4)",
    "on_policy": "on_policy(tokens=4)",
    "on_policy, reverse KL": "on_policy(tokens=4)+reverse_kl",
    "seqkd": "seqkd(tokens=4)",
    "seqkd, beams": "seqkd(beams=2,tokens=4)",
    "seqkd, forward KL": "seqkd(tokens=4)+forward_kl",
    "skd": "skd(draft=2,tokens=4)",
    "skd, the teacher writes": "skd(k=0,draft=1,tokens=4)",
    "skd, as released": "skd(released=True,draft=2,tokens=4)",
    "skd, half of the data": "skd(share=0.5,draft=2,tokens=4)+jsd",
}
"""Method strings. Schemes that are tried elsewhere are named in `TEXT_SCHEMES` of tests/test_scheme_contract.py."""
STOPS = 4  # in the second epoch
FROM_THE_DATA = {"distillm", "gkd", "imitkd", "minillm", "skd(share"}
"""Those that also learn from the data's own responses."""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Texts of the teacher go to a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def world():
    return World().taught()


@pytest.mark.parametrize("name", CASES)
def test_it_trains_and_a_killed_run_goes_on_with_the_same_bits(name, world, tmp_path):
    whole = world.engine(CASES[name], folder=tmp_path / "whole")
    start = weights(whole)
    history = whole.run().history
    after = weights(whole)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not same(start, after)
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]

    def press(progress):
        if progress.step == STOPS:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        world.engine(CASES[name], folder=tmp_path / "parts", on_step=press).run()
    rest = world.engine(CASES[name], folder=tmp_path / "parts")
    rest.run(resume=True)
    assert same(weights(rest), after)
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    ends = [checkpoint.read(tmp_path / part)["stateful"] for part in ("parts", "whole")]
    assert repr(ends[0]) == repr(ends[1])  # buffers, thresholds and sums


@pytest.mark.parametrize("name", ["distillm", "gkd", "imitkd", "minillm", "on_policy", "skd", "seqkd, forward KL"])
def test_another_texts_teacher_is_another_teacher(name, world):
    def first_terms(text):
        run = world.engine(text)
        run.begin()
        run.train_on(next(iter(run.loader.epoch(0))))
        return run.sums

    assert not torch.equal(first_terms(CASES[name]), first_terms(CASES[name] + "~shuffled"))


def test_a_control_that_would_change_nothing_is_refused():
    with pytest.raises(ValueError, match="would change nothing"):
        parse("seqkd~shuffled")


@pytest.mark.parametrize("text", ["on_policy+forward_kl", "skd(temperature=1.0,top_p=1.0)"])
def test_the_student_comes_nearer_to_its_teacher(text, world):
    """By the divergence on held texts, which the student has not written."""

    def divergence(run):
        total = 0.0
        with torch.no_grad():
            for batch in run.evaluating():
                q, p = (run.sources[who].module(**batch.main.input).logits for who in ("student", "teacher"))
                real = batch.main.input["attention_mask"]
                log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
                total += ((log_p.exp() * (log_p - log_q)).sum(-1) * real).sum() / real.sum()
        return total

    run = world.engine(text)
    run.evaluating = world.examples().held
    before = divergence(run)
    run.run()
    assert divergence(run) < 0.98 * before


@pytest.mark.parametrize("name", ["distillm, the student writes", "minillm", "skd", "on_policy"])
def test_networks_that_write_come_back_unchanged(name, world):
    run = world.engine(CASES[name])
    run.begin()
    student, teacher = (run.sources[who].module for who in ("student", "teacher"))
    student.train()
    next(student.children()).eval()  # modes that differ come back, too
    modes = [[module.training for module in one.modules()] for one in (student, teacher)]
    wants = [[weight.requires_grad for weight in one.parameters()] for one in (student, teacher)]
    kept = [copy.deepcopy(one.state_dict()) for one in (student, teacher)]
    state = torch.random.get_rng_state()
    run.prepared(next(iter(run.loader.epoch(0))))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [[module.training for module in one.modules()] for one in (student, teacher)] == modes
    assert [[weight.requires_grad for weight in one.parameters()] for one in (student, teacher)] == wants
    assert all(weight.grad is None for weight in student.parameters())
    assert all(same(one.state_dict(), before) for one, before in zip((student, teacher), kept, strict=True))


class Stored:
    """What a teacher said of the data's texts; there is no network any more."""

    trained, module, provides, fingerprint = False, None, frozenset(), "stored"

    def __init__(self, source):
        self.source = source

    def __call__(self, task, batch, view, taps):
        return self.source(task, batch, view, taps)


@pytest.mark.parametrize("name", CASES)
def test_a_teacher_without_a_network_is_refused(name, world):
    stored = Stored(world.frozen(world.teacher()))
    with pytest.raises(ValueError, match=r"asks the teacher about texts that are written while the student learns"):
        world.engine(CASES[name], teacher=stored)
    world.engine("forward_kl", teacher=stored)


@pytest.mark.parametrize("name", CASES)
def test_data_with_prompts_only(name, world):
    bare = World(answered=False)
    bare.known, text = world.known, CASES[name]
    if any(text.startswith(one) for one in FROM_THE_DATA):
        with pytest.raises(ValueError, match="the data has prompts only"):
            bare.engine(text)
        return
    run = bare.engine(text)
    start = weights(run)
    run.begin()
    run.train_on(next(iter(run.loader.epoch(0))))
    assert (run.sums > 0).all()
    assert not same(start, weights(run))


def test_the_probe_is_not_counted(world):
    """One text that the student writes before the first step, to size the losses, is no text of the first epoch."""
    run = world.engine("distillm(start=1.0,step=0.1,tokens=4)")
    assert len(run.task.sequences.buffer.rows) == 0
    assert run.task.report() == {}
    run.run()
    assert len(run.task.sequences.buffer.rows) == 2 * len(world.train)


def test_data_that_is_no_text():
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
    with pytest.raises(ValueError, match="skd lets language models write, and the data of this run is no text"):
        potstill.distill(
            nn.Linear(3, 4), nn.Linear(3, 4), (x, y), method="skd", batch_size=10, device="cpu", quiet=True
        )


def train(world, folder, resume, kill_at=None):
    """In a process of its own: an on-policy run with a replay buffer that is filled and drawn from."""

    def kill(progress):
        if progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    run = world.engine(REPLAYED, folder=folder, on_step=kill)
    run.run(resume=resume)
    checkpoint.write_json(folder / "history.json", run.history)


REPLAYED = "distillm(start=0.9,capacity=8,tokens=4)"


def test_killed_with_a_replay_buffer(world, tmp_path):
    """SIGKILL in the first and in the second epoch; what the buffer held is drawn again."""
    context = multiprocessing.get_context("fork")

    def process(*args):
        one = context.Process(target=train, args=(world, *args))
        one.start()
        one.join()
        return one.exitcode

    assert process(tmp_path / "whole", False) == 0
    assert process(tmp_path / "parts", False, 2) == -signal.SIGKILL
    assert process(tmp_path / "parts", True, 5) == -signal.SIGKILL
    assert len(checkpoint.read(tmp_path / "parts")["stateful"]["task"]["buffer"]["index"]) == 8
    assert process(tmp_path / "parts", True) == 0
    states = [checkpoint.read(tmp_path / part) for part in ("parts", "whole")]
    assert same(states[0]["system"], states[1]["system"])
    assert repr(states[0]["stateful"]) == repr(states[1]["stateful"])
    rows = [json.loads((tmp_path / part / "history.json").read_text()) for part in ("parts", "whole")]
    assert rows[0] == rows[1]
    assert any(row["report"]["replayed_share"] > 0 for row in rows[0])
