"""Students of one architecture as one network: one forward and one backward for all of them (`torch.func.vmap`).

Only the networks are stacked, and only while they run: every student keeps its weights, optimizer, terms and
checkpoints, and its terms read slices of the stacked outputs and taps. Convolutions of N students become grouped ones,
so numbers differ from those of separate runs in the last bits: after one step in float32 by about 1e-7. A killed group
that goes on as the same group comes to the same bits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from potstill import checkpoint, registry
from potstill.engine import Engine
from potstill.loop import Failures, each, in_turn
from potstill.ranks import world_size
from potstill.sources import Network, memory_of
from potstill.tasks.classify import Classify
from potstill.types import Batch, Outputs, Task

ROUNDS = 5
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""Layers that draw numbers of their own, which students must not share."""


def stacks(engines: Sequence[Engine]) -> list[list[Engine]]:
    """Those whose students can be stacked, in groups of at least two: one architecture without dropout."""
    found: dict[Hashable, list[Engine]] = {}
    for engine in engines:
        found.setdefault(_kind(engine), []).append(engine)
    return [group for group in found.values() if len(group) > 1]


def _kind(engine: Engine) -> Hashable:
    source, networks = engine.sources["student"], engine.system.networks
    rows, whole = getattr(engine.loader, "batch_size", engine.fit.batch_size), engine.fit.micro_batch
    alone = len(networks) > 1 or world_size() > 1 or (whole is not None and whole < rows)
    alone |= type(engine.task) is not Classify  # its students may see views of their own
    layers = networks["student"].modules()
    # What is compiled would have to be compiled once more for the stack, which was not tried.
    single = not isinstance(source, Network) or source.precision.compiled
    if alone or single or any(isinstance(m, RANDOM) and m.p > 0 for m in layers):
        return id(engine)
    module = networks["student"]
    shapes = tuple((name, value.shape, value.dtype) for name, value in module.state_dict().items())
    return repr(module), shapes, source.preprocess, source.precision


class Stacked:
    """How engines take a batch (a `loop.Step`): students that are alike at once, the others in turn."""

    def __init__(self, engines: Sequence[Engine]):
        self.groups = stacks(engines)
        self.slots = {engine: _Slot(engine) for group in self.groups for engine in group}

    def __call__(self, some: Sequence[Engine], batch: Batch) -> Failures:
        failed = in_turn([engine for engine in some if engine not in self.slots], batch)
        for group in self.groups:
            if any(engine in some for engine in group):
                failed |= self._at_once(group, [engine for engine in group if engine in some], batch)
        return failed

    def _at_once(self, group: list[Engine], some: list[Engine], batch: Batch) -> Failures:
        """All of the group are computed, whoever's turn it is: arithmetic may depend on how many are stacked."""
        failed: Failures = {}
        for parts in zip(*(engine.prepared(batch) for engine in some), strict=True):
            steps = {engine: part for engine, part in zip(some, parts, strict=True) if engine not in failed}
            together = _Together(group, list(steps))
            for engine in steps:
                self.slots[engine].at = together, group.index(engine)
            try:
                failed |= each(steps, lambda engine, steps=steps: engine.differentiate(steps[engine]))
            finally:
                for engine in steps:
                    self.slots[engine].at = None
            together.backward()
            failed |= each([engine for engine in steps if engine not in failed], lambda engine: engine.move())
        for engine in some:
            engine.done_batches += engine not in failed
        return failed


class _Slot:
    """The student of one engine, as its terms hear it: itself, or its slice of the stack."""

    trained = True
    provides = None

    def __init__(self, engine: Engine):
        self.source = engine.sources["student"]
        self.module, self.fingerprint = self.source.module, ""
        self.at: tuple[_Together, int] | None = None
        engine.system.sources["student"] = self

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        if self.at is None or not torch.is_grad_enabled():  # what objectives are primed with
            return self.source(task, batch, view, taps)
        together, number = self.at
        return together.answer(number, task, batch, view)


@dataclass
class _Said:
    """A stacked tensor `[N, …]`, and its slices as the terms of the N students differentiate at them."""

    whole: Tensor
    leaves: list[Tensor]

    @classmethod
    def of(cls, whole: Tensor) -> _Said:
        return cls(whole, [one.detach().contiguous().requires_grad_(whole.requires_grad) for one in whole.unbind()])


class _Together:
    """One forward of all students on each view, and the backward when those that learn have their losses."""

    def __init__(self, engines: list[Engine], learning: list[Engine]):
        self.engines, self.learning = engines, learning
        self.modules = [engine.system.networks["student"] for engine in engines]
        self.said: dict[str, tuple[Any, _Said, dict[str, _Said]]] = {}

    def answer(self, number: int, task: Task, batch: Batch, view: str) -> Outputs:
        place = memory_of(batch.views[view].input)
        if view not in self.said:
            self.said[view] = place, *self._run(number, task, batch, view)
        expected, output, tapped = self.said[view]
        if place != expected:
            raise ValueError("stacked students see the same inputs, and the task prepares others for each")
        return Outputs(output.leaves[number], {name: said.leaves[number] for name, said in tapped.items()})

    def _run(self, number: int, task: Task, batch: Batch, view: str) -> tuple[_Said, dict[str, _Said]]:
        taps = [tap for engine in self.engines for tap in engine.system.wanted.get(("student", view), ())]
        asked = _Asked(self.engines[number].sources["student"], tuple(dict.fromkeys(taps)))
        parameters = _stack([dict(module.named_parameters()) for module in self.modules])
        buffers = _stack([dict(module.named_buffers()) for module in self.modules])

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            return functional_call(asked, (parameters, buffers), (task, batch, view))

        output, tapped = vmap(one)(parameters, buffers)
        with torch.no_grad():  # running statistics were moved in the stacked ones
            for row, (engine, module) in enumerate(zip(self.engines, self.modules, strict=True)):
                for name, buffer in module.named_buffers() if engine in self.learning else ():
                    buffer.copy_(buffers[PREFIX + name][row])
        for name, value in tapped.items():
            if not value.requires_grad:
                raise ValueError(f"tap {name!r} carries no gradient; the part of the network in front of it is frozen")
        return _Said.of(output), {name: _Said.of(value) for name, value in tapped.items()}

    def backward(self) -> None:
        """From the gradients at the slices to those of every student's parameters."""
        pieces = [said for _, output, tapped in self.said.values() for said in (output, *tapped.values())]
        used = [said for said in pieces if any(leaf.grad is not None for leaf in said.leaves)]
        gradients = [
            torch.stack([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in said.leaves])
            for said in used
        ]
        if used:
            torch.autograd.backward([said.whole for said in used], gradients)


PREFIX = "network."


class _Asked(nn.Module):
    """A source as a module, so that its network can be called with other weights."""

    def __init__(self, source: Any, taps: tuple[str, ...]):
        super().__init__()
        self.network, self.wanted = source.module, taps
        self.source = source.with_module(source.module)
        # Inside vmap a tensor does not say whether it carries a gradient; the stacked one is asked afterwards.
        self.source.taps(taps).needs_gradient = False

    def forward(self, task: Task, batch: Batch, view: str) -> tuple[Tensor, dict[str, Tensor]]:
        said = self.source(task, batch, view, self.wanted)
        return said.dense(), dict(said.taps)


def _stack(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Under the names that `_Asked` has for them. Gradients flow back into each."""
    return {PREFIX + name: torch.stack([state[name] for state in states]) for name in states[0]}


def settle(record: Path, build: Callable[[], list[Engine]], batch: Batch, device: torch.device) -> dict[str, Any]:
    """As `choose` says; measured once and kept in `record`, so that a resumed run goes on in the same way."""
    with registry.locked(record):
        if not record.exists():
            with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
                checkpoint.write_json(record, choose(build, batch))
    return json.loads(record.read_text())


def choose(build: Callable[[], list[Engine]], batch: Batch) -> dict[str, Any]:
    """Measure a step stacked and in turn, interleaved, on throw-away engines; stacked must gain a tenth.

    Returns {"stacked": whether it does, "why": what was measured}.
    """
    turn, stack = build(), build()
    step = Stacked(stack)
    for engine in (*turn, *stack):
        engine.begin()
    runs = {"in turn": lambda: in_turn(turn, batch), "stacked": lambda: step(stack, batch)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            began = perf_counter()
            with warnings.catch_warnings():
                # An operation that torch can only run student by student: nothing would be stacked.
                warnings.filterwarnings("error", message="There is a performance drop")
                try:
                    failed = run()
                except (RuntimeError, UserWarning) as error:  # in the backward pass, which they share
                    failed = {name: error}
            if failed:
                return {"stacked": False, "why": f"in turn; stacking fails: {next(iter(failed.values()))}"}
            if turn[0].device.type == "cuda":
                torch.cuda.synchronize(turn[0].device)
            if number:  # first calls compile kernels and allocate
                times[name].append(1000 * (perf_counter() - began))
    found = {name: median(values) for name, values in times.items()}
    better = found["stacked"] < 0.9 * found["in turn"]
    said = ", ".join(f"{name} {value:.1f} ms" for name, value in found.items())
    return {"stacked": better, "why": f"{'stacked' if better else 'in turn'}; a step of {len(turn)} students: {said}"}
