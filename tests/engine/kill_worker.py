"""A run that can be killed: what the processes of test_engine_killed.py and test_engine_ranks.py do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from potstill.cell import assemble
from potstill.data import Images, Preprocess, Resident, batches
from potstill.engine import Engine
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.student import save_student
from potstill.types import DataInfo, Progress

INTERRUPTED = 3
SECONDS = "seconds"
"""File with the computing time of a finished run."""
SGD = Fit(epochs=4, batch_size=8, lr=0.05, checkpoint_steps=3, checkpoint_seconds=1e9)
FITS = {
    "sgd": SGD,
    "adamw": replace(SGD, optimizer="adamw", lr=0.01, ema=0.9, clip=0.5, micro_batch=4, schedule="cosine", warmup=0.2),
}


class Student(nn.Module):
    """Batch norm and dropout, whose state and random numbers must survive."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, 5, (50,), generator=generator), tuple("abcde"), "noise", "train", "0")


def engine(
    folder: Path | None,
    fit: Fit = SGD,
    seed: int = 0,
    method: str = "icd(width=4)+kd",
    rank: int = 0,
    world: int = 1,
    on_step: Callable[[Progress], None] | None = None,
    precision: str = "float32",
    prepare: Callable[[nn.Module], object] = lambda teacher: None,
) -> Engine:
    """A student and a teacher on noise, assembled as a command does it."""
    data = images()
    probe = next(iter(batches(data, 8)))
    with torch.random.fork_rng():
        torch.manual_seed(hash_int(seed, "student"))
        student = Student()
        torch.manual_seed(1)
        teacher = build("small_cnn", num_classes=5, in_channels=1, width=4)
    prepare(teacher)
    loader = Resident(data, fit.batch_size, seed=seed, rank=rank, world=world)
    examples = Examples(loader, DataInfo(len(data), fit.batch_size, 5), probe, lambda: batches(data, 32))
    own, chosen, method = Preprocess.of(data), Precision.named(precision), parse(method)
    return assemble(
        student,
        source(teacher, probe, trained=False, preprocess=own, precision=chosen),
        method,
        examples,
        fit,
        seed=seed,
        preprocess=own,
        precision=chosen,
        folder=folder,
        on_step=on_step,
    )


def train(
    folder: Path, variant: str = "sgd", resume: bool = False, on_step=None, dies_after=None, shard=False, **kw
) -> None:
    """Train to the end, and leave the student beside the metrics. A run that is interrupted exits with INTERRUPTED.

    After `dies_after` seconds of its own computing time the kernel ends the process, wherever it is: SIGPROF has no
    handler and ends it as SIGKILL does. Unlike a clock this does not depend on how busy the machine is.
    """
    torch.set_num_threads(1)
    run = engine(folder, replace(FITS[variant], shard=shard), on_step=on_step, **kw)
    began = time.process_time()
    if dies_after is not None:
        signal.setitimer(signal.ITIMER_PROF, dies_after)
    try:
        run.run(resume=resume)
    except Interrupted:
        raise SystemExit(INTERRUPTED) from None
    signal.setitimer(signal.ITIMER_PROF, 0)
    if kw.get("rank", 0) == 0:
        save_student(folder, run.student, {})
        (folder / SECONDS).write_text(str(time.process_time() - began))


def slowly(progress: Progress) -> None:
    """Leaves time to be interrupted."""
    time.sleep(0.1)


def train_until(folder: Path, variant: str, step: int, number: int, resume: bool = False, **kw) -> None:
    """The process sends itself a signal right after a step."""

    def end(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), number)

    train(folder, variant, resume, on_step=end, **kw)


def train_until_file(folder: Path, variant: str, name: str, count: int, when: str) -> None:
    """The process is killed when a file is written for the n-th time: half of it, before or after its rename."""
    rename, seen = os.replace, []

    def replacing(before, after):
        if Path(after).name == name:
            seen.append(after)
            if len(seen) == count:
                if when == "half":
                    Path(before).write_bytes(Path(before).read_bytes()[:200])
                if when == "after":
                    rename(before, after)
                os.kill(os.getpid(), signal.SIGKILL)
        rename(before, after)

    os.replace = replacing
    train(folder, variant, resume=True)


def remains(folder: Path) -> tuple[bytes, bytes]:
    """What a finished run is judged by: weights and metrics, byte by byte."""
    return (folder / "student.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()
