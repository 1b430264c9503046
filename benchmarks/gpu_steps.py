"""Ways to take one distillation step on one device, for `gpu.py`; needs no more than torch and Potstill's core.

`engine`    Potstill's own step, in any precision.
`bare`      the same arithmetic without the engine around it: sources, terms, backward, optimizer.
`captured`  the bare step recorded once as a CUDA graph and replayed: the host launches one thing a step.
`plain`     the loop that everybody writes: no taps, no terms, one cross-entropy and one KL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from potstill import compiling
from potstill.cell import assemble
from potstill.data import Images, Preprocess, Resident, first
from potstill.engine import Engine
from potstill.examples import Examples, source
from potstill.methods import parse
from potstill.optim import make_optimizer
from potstill.precision import Precision, waited
from potstill.recipe import Fit
from potstill.terms import units
from potstill.types import Batch, DataInfo

Step = Callable[[Batch], object]
WARM = 3
"""Steps taken before a graph is recorded: libraries allocate and choose kernels in them."""

PEAKS = {
    # NVIDIA's data sheets: bytes a second; operations a second, dense, in bf16 and in float32 without tensor cores.
    "H200": (4.8e12, 989e12, 67e12),
    "H100": (3.35e12, 989e12, 67e12),
    "A100": (2.0e12, 312e12, 19.5e12),
}


@dataclass(frozen=True)
class Task:
    """What is trained: data on the device, and how to make both networks."""

    images: Images
    networks: Callable[[], tuple[nn.Module, nn.Module]]
    prepare: Preprocess
    method: str
    fit: Fit
    device: torch.device
    seed: int = 0

    def loader(self) -> Resident:
        return Resident(self.images, self.fit.batch_size, seed=self.seed, device=self.device)

    def engine(self, precision: Precision, teacher: dict[str, Tensor] | None = None) -> Engine:
        torch.manual_seed(self.seed)
        guide, student = self.networks()
        if teacher is not None:
            guide.load_state_dict(teacher)
        batch = first(self.images, 8, self.device)
        speaker = source(guide, batch, trained=False, preprocess=self.prepare, precision=precision)
        loader = self.loader()
        info = DataInfo(len(self.images), loader.batch_size, len(self.images.classes), self.images.labels)
        engine = assemble(
            student,
            speaker,
            parse(self.method),
            Examples(loader, info, batch),
            self.fit,
            seed=self.seed,
            preprocess=self.prepare,
            precision=precision,
        )
        engine.begin()
        return engine


def engine_step(task: Task, precision: Precision) -> Step:
    return task.engine(precision).train_on


class Bare:
    """An engine's step by hand, so that a graph can be recorded of it; `graph` says whether one is.

    It seeds nothing, so networks with dropout are not for it, nor objectives that draw. The rate is a number inside of
    the graph: where the schedule changes it, another graph is recorded.
    """

    def __init__(self, engine: Engine, graph: bool = False):
        self.engine, self.with_graph = engine, graph
        self.system, self.done = engine.system, 0
        draws = [term.name for term in self.system.wired if "draw" in term.objective.needs]
        if draws:
            raise ValueError(f"term {draws[0]!r} draws random numbers in every step, which a graph would repeat")
        self.optimizer = make_optimizer(self.system, engine.fit)
        for group in self.optimizer.param_groups:  # AdamW counts its steps on the device where it is recorded
            group |= {"capturable": graph} if "capturable" in group else {}
        self.count = units(None, engine.fit.batch_size, engine.device)
        self.graph: Any = None
        self.static: Batch | None = None
        self.rate = -1.0
        self.system.train()

    def __call__(self, batch: Batch) -> None:
        rate = self.engine.fit.lr * self.engine.schedule(self.engine.progress)
        changed, self.rate = rate != self.rate, rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if not self.with_graph:
            self._step(batch)
        elif self.done < WARM:
            self._aside(batch)
        else:
            if changed or self.graph is None:
                self._record(batch)
            self._fill(batch)
            self.graph.replay()
        self.done += 1
        self.engine.step += 1

    def _step(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        system, progress = self.system, self.engine.progress
        said: dict[str, Any] = {}
        with compiling.step(True):
            for (name, view), taps in system.wanted.items():
                said.setdefault(name, {})[view] = system.sources[name](system.task, batch, view, taps)
        shares = [term.weighted(progress) * term(said, batch, None, self.count, progress, 0) for term in system.wired]
        torch.stack(shares).sum().backward()
        self.optimizer.step()

    def _aside(self, batch: Batch) -> None:
        """A step on a stream of its own, as torch asks for in front of a recording."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(batch)
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self, batch: Batch) -> None:
        """Recording runs nothing: the weights move when the graph is replayed."""
        main = batch.main
        copies = [None if value is None else value.clone() for value in (main.input, main.index, main.label)]
        fields = dict(zip(("input", "index", "label"), copies, strict=True))
        self.static = batch.with_view("main", type(main)(**fields, number=main.number))
        self.graph = None  # frees its memory first
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(self.static)
        self.graph = graph

    def _fill(self, batch: Batch) -> None:
        assert self.static is not None
        for name in ("input", "index", "label"):
            value = getattr(batch.main, name)
            if value is not None:
                getattr(self.static.main, name).copy_(value)


def bare_step(task: Task, precision: Precision, graph: bool) -> Step:
    return Bare(task.engine(precision), graph)


def plain_step(task: Task, precision: Precision, compiled: bool = False, fused: bool = False) -> Step:
    """Cross-entropy and KL to the teacher's answers at temperature 1, by hand, in the same precision."""
    torch.manual_seed(task.seed)
    teacher, student = (precision.place(network, task.device) for network in task.networks())
    teacher.eval().requires_grad_(False)
    student.train()
    say, learn = (torch.compile(network) if compiled else network for network in (teacher, student))
    fit = task.fit
    if fit.optimizer == "sgd":
        kw = {"momentum": fit.momentum, "weight_decay": fit.weight_decay, "fused": fused or None}
        optimizer: torch.optim.Optimizer = torch.optim.SGD(student.parameters(), fit.lr, **kw)
    else:
        optimizer = torch.optim.AdamW(student.parameters(), fit.lr, weight_decay=fit.weight_decay, fused=fused or None)

    def step(batch: Batch) -> None:
        x = precision.arrange(task.prepare(batch.main.input, precision.dtype))
        with precision.autocast(task.device):
            with torch.no_grad():
                answers = say(x)
            logits = learn(x)
        optimizer.zero_grad(set_to_none=True)
        wanted = F.softmax(answers.float(), 1)
        loss = F.cross_entropy(logits.float(), batch.main.label)
        loss = loss + F.kl_div(F.log_softmax(logits.float(), 1), wanted, reduction="batchmean")
        loss.backward()
        optimizer.step()

    return step


def endless(loader: Resident) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)


@dataclass(frozen=True)
class Work:
    """What a step does: two operations for each multiply-add of convolutions and products; values that layers move,
    which are of the precision's size, and weights, gradients and momentum, which are float32."""

    operations: float
    moved: float
    kept: float

    def bytes(self, precision: Precision) -> float:
        return (2 if precision.bf16 else 4) * self.moved + 4 * self.kept


def work(task: Task) -> Work:
    """Counted on one float32 step. Operations are exact (`FlopCounterMode`). What is moved is an estimate: every layer
    without children reads its input and writes its output once, a trained one three times that (forward, and both
    gradients); the optimizer reads and writes weights, gradients and momentum. Fused layers move less."""
    engine, moved = task.engine(Precision()), [0]
    student, teacher = engine.system.networks["student"], engine.sources["teacher"].module
    assert teacher is not None
    trained = set(student.modules())

    def note(module: nn.Module, args: Any, result: Any) -> None:
        values = sum(v.numel() for v in (*args, result) if isinstance(v, Tensor))
        moved[0] += (3 if module in trained else 1) * values

    leaves = [m for network in (student, teacher) for m in network.modules() if not list(m.children())]
    handles = [module.register_forward_hook(note) for module in leaves]
    with FlopCounterMode(display=False) as counter:
        engine.train_on(next(endless(task.loader())))
    for handle in handles:
        handle.remove()
    kept = 5 * sum(p.numel() for p in student.parameters()) + sum(p.numel() for p in teacher.parameters())
    return Work(float(counter.get_total_flops()), float(moved[0]), float(kept))


def shares(found: Work, seconds: float, precision: Precision, device: torch.device) -> dict[str, float | None]:
    """Parts of the peak bandwidth and arithmetic of a known GPU, in percent."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = next((values for key, values in PEAKS.items() if key in name), None)
    if peak is None:
        return {"bandwidth_percent": None, "arithmetic_percent": None}
    return {
        "bandwidth_percent": round(100 * found.bytes(precision) / seconds / peak[0], 1),
        "arithmetic_percent": round(100 * found.operations / seconds / peak[1 if precision.bf16 else 2], 2),
    }


HALF = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def noise(rows: int, size: int, classes: int, device: torch.device) -> Images:
    pixels = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = tuple(map(str, range(classes)))
    return Images(pixels, torch.arange(rows) % classes, names, "noise", "train", "0").to(device)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown; every key of a row is a column."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "| :-- |" + " --: |" * (len(names) - 1)]
    return lines + ["| " + " | ".join(cell(row.get(name)) for name in names) + " |" for row in rows]


def cell(value: Any) -> str:
    if isinstance(value, list):
        return " – ".join(f"{one:g}" for one in value)
    return "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)


def block(step: Step, given: Iterator[Any], number: int) -> None:
    for _ in range(number):
        step(next(given))


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """Most that is allocated during a run, all networks in memory included."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    waited(run, device)
    return round(torch.cuda.max_memory_allocated(device) / 2**20)
