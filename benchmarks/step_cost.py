"""What a distillation step costs, as a ratio to its floor: one plain student step plus one teacher forward.

The floor is a hand-written loop without Potstill, in the same precision. All methods of a pair are measured in one
process, interleaved, so that a noisy machine disturbs all alike; the ratio is taken within each round, and the median
and quartiles of the rounds are shown. On the CPU it is the process's own time that counts (one thread), on a GPU the
wall clock around a synchronised step. `extra MiB` is the peak of memory allocated during a step minus the larger of the
floor's two parts. Of a method in several stages each one that listens to the teacher has its row, `method [stage]`.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py --json step_cost.json
    OMP_NUM_THREADS=1 python benchmarks/step_cost.py --precisions bf16 bf16-channels-last --json bf16.json
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torch.profiler import ProfilerActivity, profile

from potstill.adapting import adapted
from potstill.cell import assemble
from potstill.data import Preprocess
from potstill.examples import Examples, source
from potstill.methods import Method, parse
from potstill.models import build
from potstill.objectives import OBJECTIVES
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.runs import environment
from potstill.sources import Network
from potstill.stages import Stage
from potstill.types import MAIN, Batch, DataInfo, View

PAIRS = ("wrn_40_2:wrn_16_2", "resnet32x4:resnet8x4")
VARIANTS = ("crd(memory=fifo)", "rrd(memory=momentum)", "icd+kd")
METHODS = (*(name for name, kind in OBJECTIVES.items() if kind.paper and not kind.part_of), *VARIANTS)
SAMPLES, CLASSES = 50_000, 100
FLOOR = ("student", "teacher")

Row = dict[str, Any]
Run = Callable[[], object]


@dataclass
class Arguments:
    """Cost of a step, method by method."""

    pairs: tuple[str, ...] = PAIRS
    """teacher:student, names of the zoo."""
    methods: tuple[str, ...] = METHODS
    """Method strings."""
    precisions: tuple[str, ...] = ("float32",)
    """Any of float32, float32-channels-last, bf16, bf16-channels-last, float64."""
    batch_size: int = 64
    rounds: int = 15
    device: str = "cpu"
    json: Path | None = None
    """Also write the rows here, after each pair."""


class OneBatch:
    """The same batch for ever: a step's cost without its data."""

    steps, exact = 1, True

    def __init__(self, batch: Batch):
        self.batch = batch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield self.batch


@dataclass(frozen=True)
class Bench:
    """What all methods of one pair and precision share."""

    students: str
    teacher: Network
    batch: Batch
    examples: Examples
    prepare: Preprocess
    precision: Precision

    def run(self, method: Method, stage: Stage, fit: Fit) -> Run:
        """One whole step of a stage. Raises ValueError where the method does not apply to the pair."""
        device = self.batch.main.index.device
        student = build(self.students, num_classes=CLASSES).to(device)
        student = adapted(student, self.teacher, method, self.examples, preprocess=self.prepare)
        engine = assemble(
            student,
            self.teacher,
            method,
            self.examples,
            stage.fit(fit),
            stage=stage,
            preprocess=self.prepare,
            precision=self.precision,
        )
        engine.begin()
        return lambda: engine.train_on(self.batch)

    def student_step(self) -> Run:
        """The loop that everybody writes."""
        device = self.batch.main.index.device
        student = self.precision.place(build(self.students, num_classes=CLASSES), device).train()
        optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        labels = self.batch.main.index % CLASSES

        def run() -> None:
            optimizer.zero_grad()
            F.cross_entropy(self.logits(student).to(self.precision.dtype), labels).backward()
            optimizer.step()

        return run

    def teacher_forward(self) -> Run:
        return torch.no_grad()(lambda: self.logits(self.teacher.module))

    def logits(self, network: nn.Module) -> torch.Tensor:
        with self.precision.autocast(self.batch.main.index.device):
            return network(self.precision.arrange(self.prepare(self.batch.main.input, self.precision.dtype)))


def main(arguments: Arguments) -> None:
    device = torch.device(arguments.device)
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "device": str(device),
        "environment": {**environment(), "machine": platform.machine(), **abilities()},
        "rows": [],
    }
    slow = device.type == "cpu" and not found["environment"]["cpu_has_bf16"]
    if slow and any(Precision.named(name).bf16 for name in arguments.precisions):
        print("This CPU has no bf16 arithmetic: rows in bf16 show that it runs, not what it costs where it is there.")
    for name in arguments.precisions:
        for pair in arguments.pairs:
            found["rows"] += measure(pair, Precision.named(name), device, arguments)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        print(f"\n{name}, batch {arguments.batch_size}, {arguments.rounds} rounds\n")
        print("\n".join(table([row for row in found["rows"] if row["precision"] == name])))


def measure(pair: str, precision: Precision, device: torch.device, arguments: Arguments) -> list[Row]:
    """One row a stage of every method, also where it does not apply."""
    torch.manual_seed(0)
    bench = prepared(pair, precision, device, arguments.batch_size)
    fit = Fit(epochs=1000, batch_size=arguments.batch_size)
    runs = {"student": bench.student_step(), "teacher": bench.teacher_forward()}
    refused: dict[str, str] = {}
    for method in map(parse, arguments.methods):
        for label, stage in listening(method):
            try:
                runs[label] = bench.run(method, stage, fit)
            except ValueError as error:
                refused[label] = str(error)
    times = timed(runs, arguments.rounds, device)
    peaks = {label: peak_mib(run, device) for label, run in runs.items()}
    floors = [student + forward for student, forward in zip(times["student"], times["teacher"], strict=True)]
    shared: Row = {"pair": pair, "precision": precision.name}
    shared |= {f"{part}_ms": round(1000 * median(times[part]), 2) for part in FLOOR}
    rows: list[Row] = [{"method": label, **shared, "does_not_apply": why} for label, why in refused.items()]
    for label in runs.keys() - FLOOR:
        ratios = [step / floor for step, floor in zip(times[label], floors, strict=True)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        rows.append(
            {
                "method": label,
                **shared,
                "ratio": round(median(ratios), 4),
                "quartiles": [round(low, 4), round(high, 4)],
                "extra_mib": round(peaks[label] - max(peaks[part] for part in FLOOR), 2),
            }
        )
    return sorted(rows, key=lambda row: row["method"])


def prepared(pair: str, precision: Precision, device: torch.device, rows: int) -> Bench:
    guide, student = pair.split(":")
    pixels = torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, device=device)
    index = torch.arange(rows, device=device)
    batch = Batch({MAIN: View(pixels, index, index % CLASSES)})
    prepare = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    info = DataInfo(SAMPLES, rows, CLASSES, torch.arange(SAMPLES) % CLASSES)
    network = build(guide, num_classes=CLASSES).to(device)
    teacher = source(network, batch, trained=False, preprocess=prepare, precision=precision)
    return Bench(student, teacher, batch, Examples(OneBatch(batch), info, batch), prepare, precision)


def listening(method: Method) -> Iterator[tuple[str, Stage]]:
    """The stages that have a teacher side, with the names of their rows; of a method without a teacher its last."""
    for stage in method.stages:
        heard = any(side is not None and side.source == "teacher" for term in stage.terms for side in term.addresses)
        if heard or (not stage.name and not method.needs_teacher):
            yield f"{method.name} [{stage.name}]" if stage.name else method.name, stage


def timed(runs: dict[str, Run], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every run in every round; two calls of each come before, which allocate and compile."""
    for run in runs.values():
        run()
        run()
    return interleaved(runs, rounds, device)


def interleaved(runs: dict[str, Run], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every run in every round: the process's own time on a CPU, synchronised wall clock on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(rounds):
        for label, run in runs.items():
            wait(device)
            began = clock()
            run()
            wait(device)
            times[label].append(clock() - began)
    return times


def peak_mib(run: Run, device: torch.device) -> float:
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


def abilities() -> Row:
    """What the CPU can do, as far as it decides which precision is fast."""
    query = getattr(torch.cpu, "get_capabilities", None)  # of newer versions of PyTorch
    known = query() if query else {}
    names = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16")
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": {name: known[name] for name in names if name in known},
        "cpu_has_bf16": any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")),
    }


def table(rows: Iterable[Row]) -> list[str]:
    """Markdown: a line a method, three columns a pair; why a method does not apply stands below."""
    by_pair: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_pair.setdefault(row["pair"], {})[row["method"]] = row
    titles = [pair.replace(":", " → ") for pair in by_pair]
    lines = ["| method | " + " | ".join(f"{title} | quartiles | extra MiB" for title in titles) + " |"]
    lines.append("| :-- |" + " --: | --: | --: |" * len(by_pair))
    labels = sorted({label for found in by_pair.values() for label in found})
    lines += [
        f"| {label} | " + " | ".join(_cells(found[label]) for found in by_pair.values()) + " |" for label in labels
    ]
    for title, found in zip(titles, by_pair.values(), strict=True):
        lines += [
            "",
            "{}: student {student_ms} ms, teacher {teacher_ms} ms".format(title, **next(iter(found.values()))),
        ]
        refused = (row for row in found.values() if "does_not_apply" in row)
        lines += [f"{row['method']} does not apply: {row['does_not_apply']}" for row in refused]
    return lines


def _cells(row: Row) -> str:
    if "does_not_apply" in row:
        return "– | does not apply | –"
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} | {low:.2f} – {high:.2f} | {row['extra_mib']:.0f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
