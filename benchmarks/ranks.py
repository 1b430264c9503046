"""What several processes cost: a step under DDP and FSDP2, and what terms that relate samples gather.

Weak scaling: the same rows on every rank, 1 and 2 gloo processes that take turns in one launch (with 1, the other
waits); the median and quartiles of the rounds are shown. `exchange %` is the part of a step's wall clock that rank 0
spends in collectives, as torch's profiler sees it: waiting for the slower rank counts. Gathering: embeddings
`[rows, width]` of student and teacher from every rank, and the loss of the whole batch on what was gathered.

Processes that share cores get in each other's way: then the times say what the exchange costs here, not how a machine
with a device for each process scales. docs/scaling.md has an estimate for those.

    OMP_NUM_THREADS=1 python benchmarks/ranks.py --json benchmarks/results/ranks.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist
import tyro
from step_cost import CLASSES, OneBatch, abilities
from torch.profiler import ProfilerActivity, profile

from potstill.cell import assemble
from potstill.data import Preprocess
from potstill.examples import Examples, source
from potstill.methods import parse
from potstill.models import build
from potstill.objectives import ICD, RKD, SP
from potstill.precision import Precision
from potstill.ranks import gather, rank, start, wait, world_size
from potstill.recipe import Fit
from potstill.runs import environment
from potstill.types import MAIN, Batch, DataInfo, View

Row = dict[str, Any]
CUBIC = 128
"""The most rows of a batch for which RKD is measured: its angles take memory of rows³."""
COLLECTIVES = ("gloo:", "c10d::", "FSDP::all_gather", "FSDP::post_backward_reduce")


@dataclass
class Arguments:
    """Cost of ranks."""

    pair: str = "resnet20:resnet8"
    """teacher:student, names of the zoo."""
    methods: tuple[str, ...] = ("kd", "icd+kd")
    """Method strings."""
    rows: int = 32
    """Samples per rank and step."""
    rounds: int = 9
    batches: tuple[int, ...] = (16, 64, 256)
    """Rows per rank of gathered embeddings."""
    widths: tuple[int, ...] = (64, 512, 2048)
    """Their widths."""
    ranks: int = 2
    json: Path | None = None
    """Also write the rows here."""


def main(arguments: Arguments) -> None:
    if "LOCAL_RANK" not in os.environ:  # the script starts its own processes
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.ranks}"]
        raise SystemExit(subprocess.run([*launch, *sys.argv], check=False).returncode)
    start("cpu")
    torch.set_num_threads(1)
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "rounds": arguments.rounds,
        "ranks": world_size(),
        "cores": os.cpu_count(),
        "environment": {**environment(), **abilities()},
        "steps": steps(arguments),
        "gathering": gathering(arguments),
    }
    if rank() == 0:
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        print("\n".join(table(found)))
    dist.destroy_process_group()


def steps(arguments: Arguments) -> list[Row]:
    """A row a method and way: alone, under DDP, under FSDP2."""
    rows = []
    for method in arguments.methods:
        runs = {"1 process": alone(lambda m=method: step(arguments, m, False))}
        runs |= {"DDP": step(arguments, method, False), "FSDP2": step(arguments, method, True)}
        times = timed(runs, arguments.rounds)
        floor = times["1 process"]
        for way, run in runs.items():
            ratios = [one / other for one, other in zip(times[way], floor, strict=True)]
            rows.append(
                {
                    "method": method,
                    "way": way,
                    **spread(times[way]),
                    "ratio": round(median(ratios), 3),
                    "exchange_percent": None if way == "1 process" else median(exchange(run) for _ in range(5)),
                }
            )
    return rows


def step(arguments: Arguments, text: str, shard: bool) -> Callable[[], object]:
    """One whole optimizer step on this rank's rows."""
    guide, student = arguments.pair.split(":")
    method, count = parse(text), arguments.rows
    torch.manual_seed(0)
    index = torch.arange(count) + rank() * count
    batch = Batch({MAIN: View(torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8), index, index % CLASSES)})
    prepare = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    teacher = source(build(guide, num_classes=CLASSES), batch, trained=False, preprocess=prepare, precision=Precision())
    examples = Examples(OneBatch(batch), DataInfo(50_000, count * world_size(), CLASSES), batch)
    fit = Fit(epochs=1000, batch_size=count * world_size(), shard=shard)
    engine = assemble(build(student, num_classes=CLASSES), teacher, method.terms, examples, fit, preprocess=prepare)
    engine.begin()
    return lambda: engine.train_on(batch)


def alone(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """The same by rank 0 without the others, who wait."""
    group = dist.group.WORLD
    solo = dist.new_group([0])

    def inside(act: Callable[[], Any]) -> Any:
        # A group of one as the default: everything asks that one how many there are.
        if rank() > 0:
            return None
        dist.distributed_c10d._update_default_pg(solo)
        try:
            return act()
        finally:
            dist.distributed_c10d._update_default_pg(group)

    run = inside(make)
    return lambda: inside(run)


def gathering(arguments: Arguments) -> list[Row]:
    """A row a batch and width."""
    rows = []
    for width in arguments.widths:
        for count in arguments.batches:
            torch.manual_seed(rank())
            mine = [torch.randn(count, width) for _ in range(2)]
            everyone = [gather(one) for one in mine]
            runs = {"gather": lambda mine=mine: [gather(one) for one in mine]}
            objectives = {"icd": ICD(width, width), "sp": SP()}
            if len(everyone[0]) <= CUBIC:
                objectives["rkd"] = RKD()
            for name, objective in objectives.items():
                runs[name] = lambda o=objective, e=everyone: loss(o, *e)
            times = timed(runs, arguments.rounds)
            sent = 2 * (world_size() - 1) * count * width * 4
            row = {"rows": count, "width": width, "received_bytes": sent}
            rows.append(row | {name: spread(values) for name, values in times.items()})
    return rows


def loss(objective: torch.nn.Module, student: torch.Tensor, teacher: torch.Tensor) -> None:
    """The loss of all rows and its gradient at them, as every rank computes it."""
    leaf = student.detach().requires_grad_()
    objective(leaf, teacher).mean().backward()


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of wall clock, interleaved; all ranks begin together, and a run ends when all have ended."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            wait()
            began = time.perf_counter()
            run()
            wait()
            if number >= 2:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def exchange(run: Callable[[], object]) -> float:
    """Percent of a step in which this rank is in a collective or waits for one."""
    wait()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        run()
        spent = time.perf_counter() - began
    events = profiler.profiler.kineto_results.events()
    spans = sorted((e.start_ns(), e.end_ns()) for e in events if e.name().startswith(COLLECTIVES))
    covered, last = 0, 0
    for first, end in spans:  # calls lie within each other
        covered += max(0, end - max(first, last))
        last = max(last, end)
    return round(100 * covered / 1e9 / spent, 1)


def spread(values: list[float]) -> Row:
    low, middle, high = quantiles(values, n=4)
    return {"ms": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def table(found: Row) -> Iterable[str]:
    """Markdown."""
    yield "| method | way | ms a step | quartiles | to 1 process | exchange % |"
    yield "| :-- | :-- | --: | --: | --: | --: |"
    for row in found["steps"]:
        low, high = row["quartiles"]
        share = "–" if row["exchange_percent"] is None else f"{row['exchange_percent']:.0f}"
        times = f"{row['ms']:.0f} | {low:.0f} – {high:.0f} | {row['ratio']:.2f}"
        yield f"| {row['method']} | {row['way']} | {times} | {share} |"
    yield ""
    yield "| rows a rank | width | KiB received | gather ms | quartiles | ICD ms | SP ms | RKD ms |"
    yield "| --: | --: | --: | --: | --: | --: | --: | --: |"
    for row in found["gathering"]:
        low, high = row["gather"]["quartiles"]
        rkd = f"{row['rkd']['ms']:.1f}" if "rkd" in row else "–"
        yield (
            f"| {row['rows']} | {row['width']} | {row['received_bytes'] / 1024:.0f} | {row['gather']['ms']:.2f} | "
            f"{low:.2f} – {high:.2f} | {row['icd']['ms']:.1f} | {row['sp']['ms']:.1f} | {rkd} |"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
