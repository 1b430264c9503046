"""What a step costs: multiply-adds counted, and the time of its parts measured on throw-away copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from potstill.batch import Outputs, Progress
from potstill.data import Streamed
from potstill.engine import Engine
from potstill.loop import Loader
from potstill.ranks import join_outputs
from potstill.sources import Network
from potstill.taps import untouched
from potstill.tasks.classify import Classify
from potstill.terms import Wired, units
from potstill.types import MAIN, Batch, SourceOutputs, Updates

Run = Callable[[], object]


def macs(source: Network, batch: Batch) -> int:
    """Multiply-adds of one forward pass over a batch, in convolutions, matrix products and attention.

    Counted as PyTorch counts floating point operations, halved; biases, normalisation, activations and pooling are left
    out, as is usual.
    """
    with untouched(source.module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        source(Classify(), batch, MAIN, ())
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Costs:
    """Median seconds: of a whole step, of the teacher's answers and of every term in it; of waiting for a batch; and of
    one evaluation of the validation batch that was given.

    A term's are those of its formula, forward and back to what it reads, and of its memory's update; what carries the
    gradient on through the student belongs to the student, which has the rest of the step.
    """

    step: float
    teacher: float
    terms: Mapping[str, float]
    wait: float
    evaluation: float

    @property
    def student(self) -> float:
        return max(0.0, self.step - self.teacher - sum(self.terms.values()))


def measure(engine: Engine, batch: Batch, evaluated: Batch | None, rounds: int) -> Costs:
    """Time an engine on `batch`, part by part and interleaved, after one call of each that compiles and allocates.

    The engine is a throw-away copy: it takes steps.
    """
    engine.begin()
    runs: dict[str, Run] = {"step": lambda: engine.train_on(batch)}
    ready = next(iter(engine.prepared(batch)))
    drawn, ahead = _endless(engine.loader), isinstance(engine.loader, Streamed)
    if not ahead:
        runs["draw"] = lambda: next(drawn)
    if any(not engine.sources[source].trained for source, _ in engine.system.wanted):
        runs["teacher"] = lambda: [_teacher(engine, part) for part in _parts(engine, ready)]
    if evaluated is not None:
        student = engine.evaluated
        runs["evaluation"] = lambda: Classify().evaluate(student, [evaluated])
    terms = dict(_terms(engine, ready))
    times = _interleaved(runs | {f"term {name}": run for name, run in terms.items()}, rounds, engine.device)
    if ahead:  # one after the other: between other work they would all lie ready
        times |= _interleaved({"draw": lambda: next(drawn)}, rounds, engine.device)
    drawn.close()
    return Costs(
        step=times["step"],
        teacher=times.get("teacher", 0.0),
        terms={name: times[f"term {name}"] for name in terms},
        # Worker processes decode while a step runs: only what they are slower by is waited for.
        wait=max(0.0, times["draw"] - times["step"]) if ahead else times["draw"],
        evaluation=times.get("evaluation", 0.0),
    )


def _interleaved(runs: Mapping[str, Run], rounds: int, device: torch.device) -> dict[str, float]:
    """Medians of wall-clock time; a noisy machine disturbs all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            _wait(device)
            began = time.perf_counter()
            run()
            _wait(device)
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _endless(loader: Loader) -> Generator[Batch]:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _parts(engine: Engine, batch: Batch) -> list[Batch]:
    """Micro-batches, as a step cuts them."""
    micro = engine.fit.micro_batch
    return batch.split(1 if micro is None else -(-len(batch) // micro))


def _teacher(engine: Engine, batch: Batch) -> None:
    for (source, view), taps in engine.system.wanted.items():
        if not engine.sources[source].trained:
            engine.sources[source](engine.task, batch, view, taps)


def _terms(engine: Engine, batch: Batch) -> Iterator[tuple[str, Run]]:
    """A function for every term that does what the term does in a step."""
    system, parts = engine.system, _parts(engine, batch)
    system.train()
    with torch.no_grad():
        said = [system.combined(system.listen(part, system.wanted, 0), part, "unit") for part in parts]
        whole = system.combined(join_outputs(said), batch, "batch")
    for term in system.wired:
        pieces = [(whole, batch)] if system.related(term) else list(zip(said, parts, strict=True))
        yield term.name, _term(engine, term, pieces, (whole, batch))


def _term(
    engine: Engine, term: Wired, pieces: list[tuple[SourceOutputs, Batch]], whole: tuple[SourceOutputs, Batch]
) -> Run:
    progress = Progress(0, 0, engine.total)
    task, parameters = engine.task, [p for p in term.parameters() if p.requires_grad]
    count = units(task.mask(whole[1], term.view), len(whole[1].views[term.view]), engine.device)

    def run() -> None:
        for outputs, part in pieces:
            fresh, leaves = _leaves(engine, outputs)
            share = term(fresh, part, task.mask(part, term.view), count, progress, engine.seed)
            if share.requires_grad:
                torch.autograd.grad(share, leaves + parameters, allow_unused=True)
        if isinstance(term.objective, Updates):
            outputs, batch = whole
            with torch.no_grad():
                extras = term.extras(batch, task.mask(batch, term.view), progress, engine.seed)
                term.objective.update(*term.sides(outputs), **extras)

    return run


def _leaves(engine: Engine, outputs: SourceOutputs) -> tuple[SourceOutputs, list[Tensor]]:
    """What the sources said, with the trained ones' tensors to differentiate at."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        value = value.detach()
        if isinstance(value, Tensor) and value.is_floating_point():
            leaves.append(value.requires_grad_())
        return value

    fresh = {
        source: {
            view: Outputs(leaf(answer.output), {tap: leaf(tensor) for tap, tensor in answer.taps.items()})
            if engine.sources[source].trained
            else answer
            for view, answer in views.items()
        }
        for source, views in outputs.items()
    }
    return fresh, leaves
