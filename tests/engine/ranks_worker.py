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

import torch
from engine_kit import FIT, Dropout, example, make
from kill_worker import FITS, engine, train, train_until
from split_cases import CASES, SMALL, observe
from torch import nn

from potstill.loop import Interrupted
from potstill.objectives import CrossEntropy
from potstill.ranks import rank, start, wait, world_size
from potstill.terms import Term

FIRST = "the first part is done"
TERMS, BATCHES = [Term(CrossEntropy), Term(SMALL)], [example(step) for step in range(5)]


def gradients(folder: Path) -> None:
    found = {
        (name, precision, micro): observe(name, precision, micro, rank(), world_size())
        for name in CASES
        for precision in ("float64", "float32")
        for micro in (None, 4, 1)
    }
    torch.save({key: vars(seen) for key, seen in found.items()}, folder / f"gradients{rank()}.pt")


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


def interrupted(folder: Path) -> None:
    """Ctrl-C reaches one rank, in the middle of an epoch: both stop at the next checkpoint."""

    def stop(progress):
        if progress.step == 4 and rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)

    place = {"rank": rank(), "world": world_size()}
    try:
        engine(folder / "interrupted", FITS["sgd"], on_step=stop, **place).run()
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
        wait()
        print(FIRST, flush=True)  # noqa: T201
        wait()
        if rank() == 1:
            train_until(folder / "killed", "adamw", 14, signal.SIGKILL, **place)
    train(folder / "killed", "adamw", resume=True, **place)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), resume="resume" in sys.argv)
