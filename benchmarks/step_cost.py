"""What a distillation step costs, as a ratio to its floor: one plain student step plus one teacher forward.

The floor is a hand-written loop without Potstill. Everything is measured in one process, interleaved, so that a noisy
machine disturbs all alike; the ratio is taken within each round, and the median and quartiles of the rounds are
shown. On the CPU it is the process's own time that counts (one thread), on a GPU the wall clock around a synchronised
step. `extra_mib` is the peak of memory allocated during a step minus the larger of the floor's two parts.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py --json step_cost.json
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.nn.functional as F
import tyro
from torch.profiler import ProfilerActivity, profile

from potstill.cell import Examples, assemble, source
from potstill.data import Preprocess
from potstill.methods import parse
from potstill.models import build
from potstill.objectives import OBJECTIVES
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.runs import environment
from potstill.types import MAIN, Batch, DataInfo, View

PAIRS = ("wrn_40_2:wrn_16_2", "resnet32x4:resnet8x4")
SAMPLES, CLASSES = 50_000, 100


@dataclass
class Arguments:
    """Cost of a step, method by method."""

    pairs: tuple[str, ...] = PAIRS[:1]
    """teacher:student, names of the zoo."""
    methods: tuple[str, ...] = (*(n for n, kind in OBJECTIVES.items() if kind.paper and not kind.part_of), "icd+kd")
    """Method strings."""
    batch_size: int = 64
    rounds: int = 15
    precision: str = "float32"
    device: str = "cpu"
    json: Path | None = None
    """Also write the rows here."""


class OneBatch:
    """The same batch for ever: a step's cost without its data."""

    steps, exact = 1, True

    def __init__(self, batch: Batch):
        self.batch = batch

    def epoch(self, epoch: int, start: int = 0):
        yield self.batch


def main(arguments: Arguments) -> None:
    rows = []
    for pair in arguments.pairs:
        rows += measure(pair, arguments)
    print(f"{'pair':24} {'method':10} {'ratio':>6}  {'quartiles':>13}  {'extra MiB':>9}")
    for row in rows:
        low, high = row["quartiles"]
        measured = f"{row['ratio']:6.3f}  {low:6.3f} {high:6.3f}  {row['extra_mib']:9.1f}"
        print(f"{row['pair']:24} {row['method']:10} {measured}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(pair: str, arguments: Arguments) -> list[dict]:
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    names = pair.split(":")
    teacher_net, *students = (
        build(name, num_classes=CLASSES).to(device) for name in [names[0]] + [names[1]] * (1 + len(arguments.methods))
    )
    precision = Precision.named(arguments.precision)
    pixels = torch.randint(0, 256, (arguments.batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    labels = torch.arange(arguments.batch_size, device=device) % CLASSES
    batch = Batch({MAIN: View(pixels, torch.arange(arguments.batch_size, device=device), labels)})
    prepare = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    fit = Fit(epochs=1000, batch_size=arguments.batch_size)
    info = DataInfo(SAMPLES, arguments.batch_size, CLASSES, torch.arange(SAMPLES) % CLASSES)
    examples = Examples(OneBatch(batch), info, batch)
    teacher = source(teacher_net, batch, trained=False, preprocess=prepare, precision=precision)
    runs = {"student": plain_step(precision.place(students[0], device), prepare, batch, precision)}
    runs["teacher"] = plain_forward(teacher_net, prepare, batch, precision)
    for method, student in zip(arguments.methods, students[1:], strict=True):
        terms = parse(method).terms
        try:
            engine = assemble(student, teacher, terms, examples, fit, preprocess=prepare, precision=precision)
        except ValueError as error:
            print(f"{pair} {method}: does not apply ({error})")
            continue
        engine.begin()
        runs[method] = lambda engine=engine: engine.train_on(batch)
    for run in runs.values():
        run()
        run()
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            wait(device)
            began = clock()
            run()
            wait(device)
            times[name].append(clock() - began)
    peaks = {name: peak_mib(run, device) for name, run in runs.items()}
    floor = max(peaks["student"], peaks["teacher"])
    rows = []
    for method in (name for name in arguments.methods if name in runs):
        rounds = zip(times[method], times["student"], times["teacher"], strict=True)
        ratios = [step / (student + forward) for step, student, forward in rounds]
        low, _, high = quantiles(ratios, n=4)
        rows.append(
            {
                "method": method,
                "pair": pair,
                "ratio": round(median(ratios), 4),
                "quartiles": [round(low, 4), round(high, 4)],
                "extra_mib": round(peaks[method] - floor, 2),
                "student_ms": round(1000 * median(times["student"]), 2),
                "teacher_ms": round(1000 * median(times["teacher"]), 2),
                "batch_size": arguments.batch_size,
                "precision": precision.name,
                "rounds": arguments.rounds,
                "date": time.strftime("%Y-%m-%d"),
                "environment": {**environment(), "machine": platform.machine(), "device": str(device)},
            }
        )
    return rows


def plain_step(student, prepare: Preprocess, batch: Batch, precision: Precision):
    """The loop that everybody writes."""
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    student.train()

    def run() -> None:
        optimizer.zero_grad()
        with precision.autocast(batch.main.index.device):
            logits = student(precision.arrange(prepare(batch.main.input)))
        F.cross_entropy(logits.float(), batch.main.label).backward()
        optimizer.step()

    return run


def plain_forward(teacher, prepare: Preprocess, batch: Batch, precision: Precision):
    def run() -> None:
        with torch.no_grad(), precision.autocast(batch.main.index.device):
            teacher(precision.arrange(prepare(batch.main.input)))

    return run


def peak_mib(run, device: torch.device) -> float:
    """Largest sum of live allocations made during one call, in MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak / 2**20


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
