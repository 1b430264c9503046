"""Batches that networks have written: one mean over all their tokens, however they are split, padded and shared."""

import multiprocessing
import os
import signal
import socket

import pytest
import torch
from text_runs_kit import World, same

from potstill import checkpoint
from potstill.language.views import PROMPT, PROMPT_MASK, teaching
from potstill.precision import Precision
from potstill.ranks import start, wait
from potstill.step import Stepper
from potstill.types import MAIN, Batch, Progress

FLOAT64 = Precision.named("float64")
WRITING = ("skd(draft=2,tokens=6)", "on_policy(tokens=6)+forward_kl")


@pytest.fixture(scope="module")
def world():
    return World().taught(4)


def written(run):
    """The first batch, with responses of a network's own."""
    run.begin()
    (made,) = run.prepared(next(iter(run.loader.epoch(0))))
    return made


def gradients(run, batch, micro=None):
    for weight in run.system.parameters():
        weight.grad = None
    Stepper(run.system, run.system, micro)(batch, Progress(0, 0, 1))
    return [weight.grad.clone() for weight in run.system.networks["student"].parameters()]


def wider(value, by, left=False):
    filler = value.new_full((len(value), by), True if value.dtype == torch.bool else 7)
    filler = filler & False if value.dtype == torch.bool else filler
    return torch.cat([filler, value] if left else [value, filler], 1)


def padded(batch, front, back):
    """The same texts between more filler."""
    view = batch.main
    prompt, real = (wider(view.extras[name], front, left=True) for name in (PROMPT, PROMPT_MASK))
    return Batch({MAIN: teaching(prompt, real, wider(view.label, back), wider(view.mask, back), view.index)})


def by_hand(run, batch):
    """Text by text, without any filler: KL(p || q) of every token, over how many there are."""
    view, total = batch.main, 0.0
    student, teacher = (run.sources[name].module for name in ("student", "teacher"))
    for row in range(len(batch)):
        prompt = view.extras[PROMPT][row][view.extras[PROMPT_MASK][row]]
        response = view.label[row][view.mask[row]]
        ids = torch.cat([prompt, response])[None]
        places = slice(len(prompt) - 1, -1)
        log_q, log_p = (model(input_ids=ids).logits[0, places].log_softmax(-1) for model in (student, teacher))
        total = total + (log_p.exp() * (log_p - log_q)).sum()
    return torch.autograd.grad(total / view.mask.sum(), list(student.parameters()))


@pytest.mark.parametrize("text", WRITING)
def test_neither_splits_nor_padding_change_the_gradient(text, world):
    run = world.engine(text, precision=FLOAT64)
    view = written(run).main
    cut = view.mask & (torch.arange(view.mask.shape[1]) < torch.tensor([6, 1, 4, 2, 5, 3, 6, 1])[:, None])
    batch = Batch({MAIN: teaching(view.extras[PROMPT], view.extras[PROMPT_MASK], view.label, cut, view.index)})
    expected = by_hand(run, batch)
    for micro, front, back in ((None, 0, 0), (3, 0, 0), (1, 2, 3), (None, 5, 4)):
        for ours, theirs in zip(gradients(run, padded(batch, front, back), micro), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_fully_masked_text_changes_nothing(world):
    """What a network wrote may all be cut away; the others count as before."""
    run = world.engine(WRITING[0], precision=FLOAT64)
    batch = written(run)
    view = batch.main
    gone = view.mask.clone()
    gone[2:4] = False
    kept = [row for row in range(len(batch)) if row not in (2, 3)]
    without = teaching(view.extras[PROMPT], view.extras[PROMPT_MASK], view.label, gone, view.index)
    parts = (view.extras[PROMPT], view.extras[PROMPT_MASK], view.label, view.mask, view.index)
    fewer = teaching(*(part[kept] for part in parts))
    found, expected = (gradients(run, Batch({MAIN: one})) for one in (without, fewer))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


SHARED = "distillm(start=0.9,capacity=8,tokens=4)"


def one_of_two(world, place, port, folder, kill_at):
    """A rank: what its first written batch was and the gradient that all ranks found, then a whole run."""
    os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    start("cpu")
    shares = {"rank": place, "world": 2}
    if kill_at is None:
        run = world.engine(WRITING[0], precision=FLOAT64, **shares)
        batch = written(run)
        run.differentiate(batch)
        view = batch.main
        parts = (view.extras[PROMPT], view.extras[PROMPT_MASK], view.label, view.mask, view.index)
        found = [weight.grad for weight in run.system.networks["student"].parameters()]
        torch.save({"parts": list(parts), "gradients": found}, folder.parent / f"written{place}.pt")

    def kill(progress):
        if progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    run = world.engine(SHARED, folder=folder, on_step=kill, **shares)
    run.run(resume=checkpoint.exists(folder))
    wait()
    os._exit(0)  # whoever ends first takes the store of the ranks along


def two_ranks(world, folder, kill_at=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    some = [context.Process(target=one_of_two, args=(world, place, port, folder, kill_at)) for place in range(2)]
    for one in some:
        one.start()
    for one in some:
        one.join(120)
        assert one.exitcode is not None
    return [one.exitcode for one in some]


def test_two_ranks(world, tmp_path):
    assert two_ranks(world, tmp_path / "whole") == [0, 0]
    said = [torch.load(tmp_path / f"written{place}.pt", weights_only=True) for place in range(2)]
    views = [teaching(*one["parts"]) for one in said]
    assert not torch.equal(views[0].label[:, :4], views[1].label[:, :4])  # each writes to prompts of its own
    run = world.engine(WRITING[0], precision=FLOAT64)
    wide = [max(one["parts"][place].shape[1] for one in said) for place in (0, 2)]
    parts = []
    for one in said:
        prompt, real, response, mask, index = one["parts"]
        front, back = wide[0] - prompt.shape[1], wide[1] - response.shape[1]
        parts.append([wider(prompt, front, True), wider(real, front, True), wider(response, back), wider(mask, back)])
        parts[-1].append(index)
    joined = teaching(*(torch.cat(both) for both in zip(*parts, strict=True)))
    for ours, *ranks in zip(gradients(run, Batch({MAIN: joined})), *(one["gradients"] for one in said), strict=True):
        for theirs in ranks:
            torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-12)
    # The replay buffer is one for both, so that a killed run goes on with the same bits.
    assert two_ranks(world, tmp_path / "parts", kill_at=4) == [-signal.SIGKILL, -signal.SIGKILL]
    assert two_ranks(world, tmp_path / "parts", kill_at=-1) == [0, 0]
    states = [checkpoint.read(tmp_path / part) for part in ("parts", "whole")]
    assert same(states[0]["system"], states[1]["system"])
    assert repr(states[0]["stateful"]) == repr(states[1]["stateful"])
    lines = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("parts", "whole")]
    assert lines[0] == lines[1]
