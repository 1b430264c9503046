"""What each rank does under `torchrun stream_worker.py DATA FOLDER`: 200 steps on streamed images, in float64.

With `until N` a rank kills itself after step N, and torchrun ends the others; without, the run goes on from its last
checkpoint, on however many ranks there are then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from potstill import checkpoint
from potstill.cell import assemble
from potstill.data import Data, Preprocess, Streamed, batches, first, load, training
from potstill.engine import Engine
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.methods import parse
from potstill.precision import Precision
from potstill.ranks import add_up, rank, start, world_size
from potstill.recipe import Fit
from potstill.types import DataInfo, Progress

STEPS, SIDE = 200, 8
FIT = Fit(epochs=5, batch_size=8, lr=0.05, schedule="cosine", checkpoint_steps=10)


def network(width: int, seed: int) -> nn.Module:
    """No batch norm and no dropout: what they draw or measure is each rank's own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(width * SIDE * SIDE, 4)]
        return nn.Sequential(*layers)


class Noted:
    """A loader that writes down which samples it gave."""

    exact = True

    def __init__(self, loader: Streamed, file: Path):
        self.loader, self.steps, self.file = loader, loader.steps, file

    def epoch(self, number: int, begin: int = 0):
        for step, batch in enumerate(self.loader.epoch(number, begin), start=begin):
            with self.file.open("a") as file:
                file.write(json.dumps([number * self.steps + step, batch.main.index.tolist()]) + "\n")
            yield batch


class Curve:
    """Writes the mean loss of each step, and ends the process after one of them."""

    def __init__(self, folder: Path, until: int | None = None):
        self.file, self.until, self.epoch = folder / f"losses{world_size()}.jsonl", until, 0
        self.before = torch.zeros(3, dtype=torch.float64)
        if checkpoint.exists(folder):
            state = checkpoint.read(folder)
            self.before, self.epoch = state["sums"], state["position"]["epochs"]

    def __call__(self, progress: Progress) -> None:
        if progress.epoch != self.epoch:
            self.epoch, self.before = progress.epoch, torch.zeros_like(self.before)
        now = add_up(self.run.sums)
        if rank() == 0:
            with self.file.open("a") as file:
                file.write(json.dumps([progress.step - 1, (now - self.before).tolist()]) + "\n")
        self.before = now.clone()
        if progress.step == self.until and rank() == world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(data: Path, folder: Path, until: int | None = None, workers: int = 1) -> Engine:
    """The whole run, or the rest of it."""
    spec = Data("set", data, size=SIDE, augment="resized-crop-flip", workers=workers)
    images, held = load(spec, quiet=True)
    loader = training(images, FIT.batch_size, augment=spec.augment, seed=4, rank=rank(), world=world_size())
    folder.mkdir(exist_ok=True)
    noted = Noted(loader, folder / f"order{world_size()}.{rank()}.jsonl")
    examples = Examples(noted, DataInfo(len(images), 8, 4, images.labels), first(images, 4), lambda: batches(held, 32))
    own, chosen = Preprocess((0.5,), (0.25,)), Precision.named("float64")
    curve = Curve(folder, until)
    run = curve.run = assemble(
        network(3, hash_int(0, "student")),
        source(network(6, 1), examples.probe, trained=False, preprocess=own, precision=chosen),
        parse("icd(width=4)+kd"),
        examples,
        FIT,
        preprocess=own,
        precision=chosen,
        folder=folder,
        on_step=curve,
    )
    assert run.total == STEPS
    run.run(resume=True)
    return run


if __name__ == "__main__":
    start("cpu")
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4]) if "until" in sys.argv else None)
    torch.distributed.destroy_process_group()
