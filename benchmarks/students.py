"""What a student costs when N of them learn from one teacher on the same batches, against N separate runs.

A separate run makes its own batch, asks its own teacher and takes a step. Side by side there is one batch and one
forward of the teacher; the students follow in turn, or stacked into one network (`potstill/stacked.py`). All ways are
measured in one process, interleaved, so that a noisy machine disturbs all alike; ratios are taken within each round,
and the median and quartiles of the rounds are shown. On the CPU it is the process's own time that counts (one thread),
on a GPU the wall clock around a synchronised step. `peak MiB` is the most memory allocated during a step of all N
students.

    OMP_NUM_THREADS=1 python benchmarks/students.py --json benchmarks/results/students.json
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import tyro
from step_cost import abilities, interleaved, peak_mib

from potstill.cell import assemble
from potstill.data import Images, Preprocess, Resident, first
from potstill.examples import Examples, source
from potstill.loop import Step, in_turn
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.runs import environment
from potstill.sources import Heard
from potstill.stacked import Stacked
from potstill.together import expect
from potstill.types import Batch, DataInfo, Source

IMAGES, CLASSES = 2048, 100
ALONE = ("separate", 1)

Way = tuple[str, int]
"""What it is called, and how many students."""


@dataclass
class Arguments:
    """Cost per student, side by side and separately."""

    teacher: str = "resnet20"
    student: str = "resnet8"
    method: str = "kd"
    students: tuple[int, ...] = (1, 2, 4, 8)
    size: int = 16
    """Pixels a side."""
    batch_size: int = 64
    precision: str = "float32"
    rounds: int = 9
    device: str = "cpu"
    json: Path | None = None
    """Also write the rows here."""


def main(arguments: Arguments) -> None:
    device = torch.device(arguments.device)
    ways = [
        ALONE,
        *((name, n) for n in arguments.students for name in ("in turn", "stacked") if (name, n) != ("stacked", 1)),
    ]
    runs = {way: prepared(way, arguments, device) for way in ways}
    for run in runs.values():  # first calls allocate and compile
        run()
        run()
    times = interleaved({str(way): run for way, run in runs.items()}, arguments.rounds, device)
    rows = [row(way, times, peak_mib(run, device)) for way, run in runs.items()]
    found = {
        "date": time.strftime("%Y-%m-%d"),
        **{name: value for name, value in vars(arguments).items() if name != "json"},
        "environment": {**environment(), "machine": platform.machine(), **abilities()},
        "rows": rows,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{arguments.teacher} → {arguments.student}, {arguments.method}, {arguments.size} pixels, "
        f"batch {arguments.batch_size}, {arguments.precision}, {device}, {arguments.rounds} rounds\n"
    )
    print("| way | students | ms per student | of a separate run | quartiles | peak MiB |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for one in rows:
        low, high = one["quartiles"]
        print(
            f"| {one['way']} | {one['students']} | {one['ms']:.1f} | {one['ratio']:.2f} | {low:.2f} – {high:.2f} | "
            f"{one['peak_mib']:.0f} |"
        )


def row(way: Way, times: dict[str, list[float]], peak: float) -> dict[str, Any]:
    name, students = way
    each = [seconds / students for seconds in times[str(way)]]
    ratios = [mine / alone for mine, alone in zip(each, times[str(ALONE)], strict=True)]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "way": name,
        "students": students,
        "ms": round(1000 * median(each), 2),
        "ratio": round(median(ratios), 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "peak_mib": round(peak, 1),
    }


def prepared(way: Way, arguments: Arguments, device: torch.device) -> Callable[[], None]:
    """One step of all students, a batch and the teacher's forward included."""
    name, students = way
    precision = Precision.named(arguments.precision)
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, 3, arguments.size, arguments.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(IMAGES) % CLASSES
    images = Images(pixels, labels, tuple(map(str, range(CLASSES))), "noise", "train", "0").to(device)
    loader = Resident(images, arguments.batch_size, device=device)
    info = DataInfo(IMAGES, arguments.batch_size, CLASSES, labels)
    examples = Examples(loader, info, first(images, 8, device))
    prepare, method = Preprocess((0.5,) * 3, (0.25,) * 3), parse(arguments.method)
    torch.manual_seed(0)
    network = build(arguments.teacher, num_classes=CLASSES).to(device)
    teacher: Source = source(network, examples.probe, trained=False, preprocess=prepare, precision=precision)
    heard = Heard(teacher)
    engines = []
    for _ in range(students):
        student = build(arguments.student, num_classes=CLASSES).to(device)
        guide = teacher if way == ALONE else heard
        fit = Fit(epochs=1000, batch_size=arguments.batch_size)
        engine = assemble(student, guide, method, examples, fit, preprocess=prepare, precision=precision)
        engine.begin()
        engines.append(engine)
    expect(engines, heard)
    step: Step = Stacked(engines) if name == "stacked" else in_turn
    batches = endless(loader)

    def run() -> None:
        heard.forget()
        for error in step(engines, next(batches)).values():
            raise error

    return run


def endless(loader: Resident) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
