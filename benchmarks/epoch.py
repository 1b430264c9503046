"""Images per second of training on CIFAR-100's shape: the lone student, with a live teacher, and with a cached one.

Noise in the shape of CIFAR-100, cached in batches of the training's size, one view. The three kinds take turns, a
block of steps each, in one process; on the CPU it is the process's own time that counts. `ratio` is the time of a block
to that of the lone student's block in the same round: median and quartiles. The cached row pays for reading answers.

    OMP_NUM_THREADS=1 python benchmarks/epoch.py --json epoch.json
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import tyro

from potstill.cache import About, write
from potstill.cached import Cached
from potstill.cell import assemble
from potstill.data import Images, Preprocess, Resident, first
from potstill.examples import Examples, source
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.runs import environment
from potstill.types import Batch, DataInfo

CLASSES = 100


@dataclass
class Arguments:
    """What an epoch costs without, with a live and with a cached teacher."""

    teacher: str = "wrn_40_2"
    student: str = "wrn_16_2"
    method: str = "icd+kd"
    samples: int = 50_000
    """Fewer make a shorter benchmark, and the same ratio."""
    batch_size: int = 64
    steps: int = 20
    """Steps of a block."""
    rounds: int = 9
    precision: str = "float32"
    device: str = "cpu"
    json: Path | None = None


def main(arguments: Arguments) -> None:
    device, precision = torch.device(arguments.device), Precision.named(arguments.precision)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (arguments.samples, 3, 32, 32), dtype=torch.uint8, generator=generator)
    names = tuple(map(str, range(CLASSES)))
    images = Images(pixels, torch.arange(arguments.samples) % CLASSES, names, "noise", "train", "0").to(device)
    prepare = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    probe = first(images, 8, device)
    torch.manual_seed(0)
    teacher = source(
        build(arguments.teacher, num_classes=CLASSES), probe, trained=False, preprocess=prepare, precision=precision
    )
    loader = Resident(images, arguments.batch_size, views=1, view_seed=0, device=device)
    examples = Examples(loader, DataInfo(len(images), arguments.batch_size, CLASSES, images.labels), probe)
    with tempfile.TemporaryDirectory() as folder:
        seconds = time.perf_counter()
        about = About(
            teacher.fingerprint,
            precision.name,
            images.digest,
            len(images),
            "crop-flip",
            0,
            arguments.batch_size,
            tuple(teacher.names),
            ("embedding",),
        )
        write(teacher, images, Path(folder) / "cache", about)
        seconds = time.perf_counter() - seconds
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        kinds = {
            "student": ("student", None),
            "live": (arguments.method, teacher),
            "cached": (arguments.method, Cached(Path(folder) / "cache")),
        }
        blocks = {
            name: _block(arguments, method, guide, examples, prepare, precision)
            for name, (method, guide) in kinds.items()
        }
        times = _timed(blocks, arguments.rounds, device)
    images_a_block = arguments.steps * arguments.batch_size
    rows = []
    for name, taken in times.items():
        ratios = [mine / plain for mine, plain in zip(taken, times["student"], strict=True)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        speed = images_a_block / median(taken)
        rows.append(
            {
                "kind": name,
                "images_per_second": round(speed, 1),
                "ratio": round(median(ratios), 3),
                "quartiles": [round(low, 3), round(high, 3)],
            }
        )
        print(f"{name:8} {speed:9.1f} images/s   {median(ratios):.3f} ({low:.3f} – {high:.3f})")
    print(f"writing the cache: {seconds:.0f} s, {size / 2**20:.1f} MiB for {len(images):,} samples")
    if arguments.json:
        found = {**vars(arguments), "json": None, "environment": environment(), "rows": rows}
        arguments.json.write_text(json.dumps({**found, "write_seconds": seconds, "bytes": size}, indent=1) + "\n")


def _block(
    arguments: Arguments, method: str, guide: Any, examples: Examples, prepare: Preprocess, precision: Precision
) -> Callable[[], None]:
    torch.manual_seed(0)
    student = build(arguments.student, num_classes=CLASSES)
    fit = Fit(epochs=1000, batch_size=arguments.batch_size)
    engine = assemble(student, guide, parse(method), examples, fit, preprocess=prepare, precision=precision)
    engine.begin()
    batches = _for_ever(examples.loader)

    def run() -> None:
        for _ in range(arguments.steps):
            engine.train_on(next(batches))

    return run


def _for_ever(loader: Any) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _timed(blocks: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for number in range(rounds + 1):
        for name, run in blocks.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first round allocates and compiles
                times[name].append(clock() - began)
    return times


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
