"""What each of two ranks does under `torchrun ranks_worker.py FOLDER [resume]`.

At first: every case of split_cases.py in both precisions, whole and in micro-batches; unused parameters, batch norm and
dropout; whole runs with checkpoints; Ctrl-C on one rank. Then a run in which one rank kills itself, and torchrun ends
the other. With `resume` they go on with that run.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_kit import FIT, Drawn, Dropout, example, make
from kill_worker import FITS, engine, train, train_until
from split_cases import CASES, SMALL, observe
from torch import nn
from torch.distributed.fsdp import FSDPModule

from potstill import sharding
from potstill.loop import Interrupted
from potstill.objectives import CrossEntropy
from potstill.ranks import rank, start, wait, world_size
from potstill.tasks.classify import Classify
from potstill.terms import Term

FIRST = "the first part is done"
SHARDED = [(name, 4) for name in CASES] + [("icd+kd", None), ("lazy tokens", None)]
BLOCKS = {
    "answer": [Term(CrossEntropy), Term(SMALL)],
    "hint": [Term(Drawn, "middle.0.inner", "hidden")],
}
TERMS, BATCHES = [Term(CrossEntropy), Term(SMALL)], [example(step) for step in range(5)]


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.outer(torch.tanh(self.inner(x)))


class Peeking(nn.Module):
    """Uses a block without calling it."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(5)])

    def forward(self, x):
        return x + self.blocks[0].outer(torch.tanh(self.blocks[0].inner(x)))


class Asking(Classify):
    """A task that asks the student what to train on."""

    def prepare(self, batch, sources, progress, seed):
        with torch.no_grad():
            sure = sources["student"].module(batch.main.input.double()).amax(1, keepdim=True)
        yield batch.with_view("main", replace(batch.main, input=batch.main.input + 0.1 * sure.float()))


def gradients(folder: Path) -> None:
    found = {
        (name, precision, micro): observe(name, precision, micro, rank(), world_size())
        for name in CASES
        for precision in ("float64", "float32")
        for micro in (None, 4, 1)
    }
    torch.save({key: vars(seen) for key, seen in found.items()}, folder / f"gradients{rank()}.pt")


def sharded(folder: Path) -> None:
    """The same under FSDP2: every case; runs with checkpoints, one stopped and gone on with, sharded and not."""
    place = {"rank": rank(), "world": world_size()}
    found = {(name, micro): vars(observe(name, "float64", micro, shard=True, **place)) for name, micro in SHARDED}
    torch.save(found, folder / f"sharded{rank()}.pt")
    train(folder / "divided", "adamw", shard=True, **place)
    stop = at_step(4, signal.SIGINT)
    for name, shard in (("divided-divided", True), ("divided-whole", False), ("whole-divided", True)):
        try:
            stopped = engine(folder / name, replace(FITS["adamw"], shard=name[0] == "d"), on_step=stop, **place)
            stopped.run()
            raise AssertionError("the run was not interrupted")
        except Interrupted:
            pass
        wait()
        train(folder / name, "adamw", resume=True, shard=shard, **place)


def in_blocks(folder: Path) -> None:
    """Students in blocks that are gathered one by one, by losses on their answer and on the middle of a block alone."""
    sharding.GROUP, found = 1, {}
    for name, terms in BLOCKS.items():
        for shard in (False, True):
            with torch.random.fork_rng():
                torch.manual_seed(1)
                middle = nn.Sequential(Block(5), Block(5))
            fit = replace(FIT, shard=shard, micro_batch=4, clip=0.01, weight_decay=0.1, momentum=0.9, ema=0.5)
            place = {"rank": rank(), "world": world_size()}
            run = make(terms, BATCHES, middle=middle, fit=fit, precision="float64", task=Asking(), **place)
            run.run()
            blocks = sum(isinstance(module, FSDPModule) for module in run.held.system.networks["student"].modules())
            assert blocks == 2 * shard, blocks
            found[name, shard] = run.system.state_dict() | run.student.state_dict(prefix="average.")
            assert type(run.student.middle[0]) is Block
    torch.save(found, folder / f"blocks{rank()}.pt")
    refused = make(TERMS, BATCHES, middle=Peeking(), fit=replace(FIT, shard=True), **place)
    with pytest.raises(ValueError, match="outside of the block's own forward"):
        refused.run()


def statistics(folder: Path) -> None:
    """Running statistics after the last step and in the evaluation that follows; the ranks saw other samples."""
    seen = {}

    def look(name: str) -> None:
        seen[name] = {n: b.clone() for n, b in run.system.networks.named_buffers()}

    run = make(
        [Term(CrossEntropy), Term(SMALL)],
        [example(0), example(1)],
        middle=nn.BatchNorm1d(5),
        fit=replace(FIT, micro_batch=4),
        rank=rank(),
        world=world_size(),
        evaluate=lambda student: look("evaluated") or {},
        on_step=lambda progress: look("trained"),
    )
    run.run()
    torch.save(seen, folder / f"statistics{rank()}.pt")


def masks(folder: Path) -> None:
    """Dropout masks of two ranks."""
    run = make(
        [Term(SMALL)], [example(0)], middle=Dropout(), fit=replace(FIT, micro_batch=4), rank=rank(), world=world_size()
    )
    run.run()
    torch.save(run.system.networks["student"].middle.masks, folder / f"masks{rank()}.pt")


def means(folder: Path) -> None:
    """What is reported for an epoch in which checkpoints are saved."""
    place = {"rank": rank(), "world": world_size()}
    run = make(TERMS, BATCHES, fit=replace(FIT, checkpoint_steps=2), folder=folder / "means", **place)
    torch.save(run.run().history, folder / f"means{rank()}.pt")


def unused(folder: Path) -> None:
    """A student of which no term reaches the last layer, with frozen parameters, and steps that use other parts."""
    for micro in (None, 4):
        run = make(
            [Term(SMALL)],
            [example(0), example(1)],
            fit=replace(FIT, micro_batch=micro),
            rank=rank(),
            world=world_size(),
        )
        student = run.system.networks["student"]
        student.body.bias.requires_grad_(False)
        run.run()
        without = {name for name, parameter in student.named_parameters() if parameter.grad is None}
        assert without == {"body.bias", "unused.weight", "unused.bias", "fc.weight", "fc.bias"}, without


def at_step(step: int, number: int):
    """A signal to rank 1 after a step."""

    def stop(progress):
        if progress.step == step and rank() == 1:
            os.kill(os.getpid(), number)

    return stop


def interrupted(folder: Path) -> None:
    """Ctrl-C reaches one rank, in the middle of an epoch: both stop at the next checkpoint."""
    place = {"rank": rank(), "world": world_size()}
    try:
        engine(folder / "interrupted", FITS["sgd"], on_step=at_step(4, signal.SIGINT), **place).run()
        raise AssertionError("the run was not interrupted")
    except Interrupted:
        pass
    if rank() == 0:
        saved = torch.load(folder / "interrupted" / "checkpoint" / "state.pt", weights_only=True)
        assert saved["position"]["step"] == 6, saved["position"]
    train(folder / "interrupted", "sgd", resume=True, **place)


def main(folder: Path, resume: bool) -> None:
    device = start("cpu")
    assert (device.type, world_size()) == ("cpu", 2)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    place = {"rank": rank(), "world": world_size()}
    if not resume:
        gradients(folder)
        unused(folder)
        statistics(folder)
        masks(folder)
        means(folder)
        for variant in FITS:
            train(folder / variant, variant, **place)
        interrupted(folder)
        sharded(folder)
        in_blocks(folder)
        wait()
        print(FIRST, flush=True)  # noqa: T201
        wait()
        if rank() == 1:
            train_until(folder / "killed", "adamw", 14, signal.SIGKILL, **place)
    train(folder / "killed", "adamw", resume=True, **place)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), resume="resume" in sys.argv)
