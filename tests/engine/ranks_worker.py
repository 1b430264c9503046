"""What each of two ranks does under torchrun: `python -m torch.distributed.run … ranks_worker.py FOLDER WHAT …`.

    gradients   every case of split_cases.py in both precisions, whole and in micro-batches
    engine      batch norm, dropout, Ctrl-C on one rank, and a whole run with checkpoints
    killed R S  as the whole run, but rank R kills itself after step S
    resumed     goes on with that run
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from engine_kit import FIT, Given, Net, example, make
from kill_worker import FITS, engine, train, train_until
from split_cases import CASES, SMALL, observe
from torch import nn

from potstill.engine import Interrupted
from potstill.objectives import CrossEntropy
from potstill.ranks import rank, start, world_size
from potstill.terms import Term


def gradients(folder: Path) -> None:
    found = {
        (name, precision, micro): observe(name, precision, micro, rank(), world_size())
        for name in CASES
        for precision in ("float64", "float32")
        for micro in (None, 4, 1)
    }
    torch.save({key: vars(seen) for key, seen in found.items()}, folder / f"gradients{rank()}.pt")


def statistics(folder: Path) -> None:
    """Running statistics before and during an evaluation, with the batches different on the two ranks."""
    seen = {}

    def look(name, module):
        seen[name] = {n: b.clone() for n, b in module.named_buffers()}

    run = make(
        [Term(CrossEntropy), Term(SMALL)],
        [example(0), example(1)],
        middle=nn.BatchNorm1d(5),
        fit=replace(FIT, micro_batch=4),
        rank=rank(),
        world=world_size(),
        evaluate=lambda student: look("evaluated", student.module) or {},
        on_step=lambda progress: look("trained", student),
    )
    student = run.system.networks["student"]
    start = copy.deepcopy(student).train()
    run.run()
    mine = [Given([example(i)], rank(), world_size()) for i in range(2)]
    for loader in mine:
        for part in next(iter(loader.epoch(0))).split(2):
            start(part.main.input)
            break
        break
    look("first", start)
    torch.save(seen, folder / f"statistics{rank()}.pt")


def masks(folder: Path) -> None:
    """Dropout masks of two ranks, which see the same samples."""
    from test_engine_passes import Dropout

    batch = example(0)
    twice = replace(batch, views={n: replace(v, **{k: torch.cat([getattr(v, k)] * 2) for k in ("input", "index", "label")})
                                  for n, v in batch.views.items()})
    run = make([Term(SMALL)], [twice], middle=Dropout(), fit=replace(FIT, micro_batch=7), rank=rank(), world=2)
    run.run()
    torch.save(run.system.networks["student"].middle.masks, folder / f"masks{rank()}.pt")


def unused(folder: Path) -> None:
    """A student most of which no term reaches, and a frozen one with a head to train."""
    for trains in (True, False):
        student = Net(5, 1)
        run = make([Term(CrossEntropy), Term(SMALL)], [example(0)], rank=rank(), world=world_size())
        student = run.system.networks["student"]
        student.fc.requires_grad_(False)
        student.body.bias.requires_grad_(trains)
        run.run()
        assert student.unused.weight.grad is None
        assert student.fc.weight.grad is None
        assert student.body.weight.grad is not None


def interrupted(folder: Path) -> None:
    """Ctrl-C reaches one rank, in the middle of an epoch: both stop at the next checkpoint."""

    def stop(progress):
        if progress.step == 4 and rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)

    place = dict(rank=rank(), world=world_size())
    try:
        engine(folder / "interrupted", FITS["sgd"], on_step=stop, **place).run()
        raise AssertionError("the run was not interrupted")
    except Interrupted:
        pass
    if rank() == 0:
        saved = torch.load(folder / "interrupted" / "checkpoint" / "state.pt", weights_only=True)
        assert saved["position"]["step"] == 6, saved["position"]
    train(folder / "interrupted", "sgd", resume=True, **place)


def main(folder: Path, what: str, *more: str) -> None:
    device = start("cpu")
    assert (device.type, world_size()) == ("cpu", 2)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    place = dict(rank=rank(), world=world_size())
    if what == "gradients":
        gradients(folder)
        unused(folder)
        statistics(folder)
        masks(folder)
        for variant in FITS:
            train(folder / variant, variant, **place)
        interrupted(folder)
    elif what == "killed":
        target, step = map(int, more)
        if rank() == target:
            train_until(folder / "killed", "adamw", step, signal.SIGKILL, **place)
        else:
            train(folder / "killed", "adamw", **place)
    else:
        train(folder / "killed", "adamw", resume=True, **place)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
