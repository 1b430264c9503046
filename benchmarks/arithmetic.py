"""What cheaper arithmetic gains: Potstill's own distillation step in every precision, against plain float32.

All precisions of a pair are measured in one process, interleaved, on one batch that stays the same; `gain` is float32's
time over the precision's in the same round, median and quartiles of the rounds. On the CPU it is the process's own time
that counts (one thread), on a GPU the wall clock around a synchronised step. `first s` is the wall clock of the first
two steps: what compiling takes, with whatever torch keeps on disk from earlier runs.

    OMP_NUM_THREADS=1 python benchmarks/arithmetic.py --json benchmarks/results/arithmetic.json
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import tyro
from step_cost import CLASSES, OneBatch, abilities, interleaved, wait

from potstill.cell import assemble
from potstill.data import Preprocess
from potstill.examples import Examples, source
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.runs import environment
from potstill.types import MAIN, Batch, DataInfo, View

PLAIN = "float32"
Row = dict[str, Any]


@dataclass
class Arguments:
    """Gain of cheaper arithmetic over plain float32."""

    pairs: tuple[str, ...] = ("wrn_40_2:wrn_16_2:32", "resnet20:resnet8:16")
    """teacher:student:pixels a side."""
    method: str = "icd"
    precisions: tuple[str, ...] = ("float32-channels-last", "float32-compile", "float32-channels-last-compile")
    """Compared with float32, which is always measured."""
    batch_size: int = 64
    rounds: int = 15
    device: str = "cpu"
    json: Path | None = None
    """Also write the rows here, after each pair."""


class Whole(OneBatch):
    """A loader whose batches all have the usual size."""

    def __init__(self, batch: Batch):
        super().__init__(batch)
        self.batch_size = len(batch)


def main(arguments: Arguments) -> None:
    found = {
        "date": time.strftime("%Y-%m-%d"),
        **{name: getattr(arguments, name) for name in ("method", "batch_size", "rounds", "device")},
        "environment": {**environment(), "machine": platform.machine(), **abilities()},
        "rows": [],
    }
    print("| teacher → student | precision | ms | gain | quartiles | first s |")
    print("| :-- | :-- | --: | --: | --: | --: |")
    for pair in arguments.pairs:
        rows = measure(pair, arguments)
        found["rows"] += rows
        for row in rows:
            cells = row["pair"], row["precision"], f"{row['ms']:.1f}", f"{row['gain']:.2f}"
            spread = " – ".join(f"{value:.2f}" for value in row["quartiles"])
            print("|", " | ".join((*cells, spread, f"{row['first_seconds']:.1f}")), "|", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(pair: str, arguments: Arguments) -> list[Row]:
    device = torch.device(arguments.device)
    runs, first = {}, {}
    for name in (PLAIN, *arguments.precisions):
        run = prepared(pair, Precision.named(name), device, arguments)
        began = time.perf_counter()
        run()
        run()
        wait(device)
        runs[name], first[name] = run, time.perf_counter() - began
    times = interleaved(runs, arguments.rounds, device)
    rows = []
    for name, mine in times.items():
        gains = [plain / taken for plain, taken in zip(times[PLAIN], mine, strict=True)]
        low, _, high = quantiles(gains, n=4) if len(gains) > 1 else gains * 3
        teacher, student, size = pair.split(":")
        rows.append(
            {
                "pair": f"{teacher} → {student}, {size} pixels",
                "precision": name,
                "ms": round(1000 * median(mine), 2),
                "gain": round(median(gains), 3),
                "quartiles": [round(low, 3), round(high, 3)],
                "first_seconds": round(first[name], 1),
            }
        )
    return rows


def prepared(pair: str, precision: Precision, device: torch.device, arguments: Arguments) -> Any:
    """One whole step: the teacher's forward, the student's step, the objectives."""
    teacher, student, size = pair.split(":")
    torch.manual_seed(0)
    networks = [build(name, num_classes=CLASSES).to(device) for name in (teacher, student)]
    rows = arguments.batch_size
    index = torch.arange(rows, device=device)
    batch = Batch({MAIN: View(torch.rand(rows, 3, int(size), int(size), device=device), index, index % CLASSES)})
    prepare = Preprocess((0.5,) * 3, (0.25,) * 3)
    guide = source(networks[0], batch, trained=False, preprocess=prepare, precision=precision)
    examples = Examples(Whole(batch), DataInfo(rows, rows, CLASSES), batch)
    engine = assemble(
        networks[1],
        guide,
        parse(arguments.method),
        examples,
        Fit(epochs=1000, batch_size=rows),
        preprocess=prepare,
        precision=precision,
    )
    engine.begin()
    return lambda: engine.train_on(batch)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
