"""What a method needs of two networks and adds to them, found by wiring it: nothing here knows any method."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import nn

from potstill.adapting import adapted
from potstill.cell import assemble
from potstill.data import Images, Preprocess, Resident, first
from potstill.examples import Examples, source
from potstill.methods import Method
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.types import Batch, DataInfo, Outputs, Task
from potstill.wiring import wire

SAMPLES = 50_000
"""Training samples that memory banks are sized for: CIFAR-100's."""
ROWS = 8
"""Random images that networks and objectives are probed with."""


@dataclass(frozen=True)
class Pair:
    """Two networks of the zoo, untrained, for square images of `size` pixels a side."""

    teacher: str
    student: str
    size: int = 32
    classes: int = 100
    channels: int = 3


FIRST = Pair("wrn_40_2", "wrn_16_2")
"""The first pair of RepDistiller's tables."""


def check_words(words: Sequence[str]) -> None:
    """Raises ValueError where `--for` is not followed by two networks, before a parser words it otherwise."""
    if "--for" in words:
        behind = list(takewhile(lambda word: not word.startswith("-"), words[words.index("--for") + 1 :]))
        if len(behind) != 2:
            named = f" and not {len(behind)}" if behind else ""
            raise ValueError(f"--for takes two networks{named}: potstill list methods --for TEACHER STUDENT")


@dataclass(frozen=True)
class Added:
    """What a method adds to a pair, or in `reason` why it does not apply and what would.

    `parameters` are those trained beside the student's own, in all stages; `buffers` are bytes of memory banks, queues
    and the like, of the largest stage.
    """

    parameters: int = 0
    buffers: int = 0
    reason: str = ""

    @property
    def applies(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Tried:
    """A pair and what came of wiring methods to it; `sizes` are the parameters of teacher and student."""

    pair: Pair
    sizes: tuple[int, int]
    added: tuple[Added, ...]


def tried(pair: Pair, methods: Sequence[Method]) -> Tried:
    """Wire every method to the pair. Raises ValueError for networks that do not exist or cannot run."""
    if pair.size < 1:
        raise ValueError(f"--size is the height and width of the images in pixels, at least 1, got {pair.size}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which stages are taken is said when they are
        torch.manual_seed(0)
        student, teacher = (
            build(name, num_classes=pair.classes, in_channels=pair.channels) for name in (pair.student, pair.teacher)
        )
        pixels = torch.randint(0, 256, (ROWS, pair.channels, pair.size, pair.size), dtype=torch.uint8)
        names = tuple(map(str, range(pair.classes)))
        images = Images(pixels, torch.arange(ROWS) % pair.classes, names, "noise", "train", "")
        probe = first(images, ROWS)
        info = DataInfo(SAMPLES, Fit().batch_size, pair.classes, torch.arange(SAMPLES) % pair.classes)
        bench = _Bench(
            Remembered(_source(student, probe, trained=True)),
            Remembered(_source(teacher, probe, trained=False)),
            Examples(Resident(images, ROWS), info, probe),
        )
        added = tuple(bench.added(method) for method in methods)
    return Tried(pair, (_count(teacher), _count(student)), added)


def _source(module: nn.Module, probe: Batch, *, trained: bool) -> Network:
    return source(module, probe, trained=trained, preprocess=Preprocess.identity(), precision=Precision())


class Remembered:
    """A source that says once what it has to say: there is one batch, and nothing is trained between two methods."""

    def __init__(self, network: Network):
        self.network = network
        self.said: Outputs | None = None
        self.trained, self.module, self.provides = network.trained, network.module, network.provides

    @property
    def fingerprint(self) -> str:
        return self.network.fingerprint

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        return self.network.expand(taps)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        known = {} if self.said is None else dict(self.said.taps)
        new = [tap for tap in taps if tap not in known]
        if self.said is None or new:
            heard = self.network(task, batch, view, new)
            self.said = Outputs(heard.output, known | dict(heard.taps))
        return self.said


@dataclass(frozen=True)
class _Bench:
    student: Remembered
    teacher: Remembered
    examples: Examples

    def added(self, method: Method) -> Added:
        probe, student, parameters, buffers = self.examples.probe, self.student, 0, [0]
        try:
            if method.adapts:
                module, plain = copy.deepcopy(student.module), Preprocess.identity()
                other = adapted(module, self.teacher.network, method, self.examples, preprocess=plain)
                parameters = _count(other) - _count(student.module)
                student = Remembered(_source(other, probe, trained=True))
            if method.scheme is not None:
                for stage in method.stages:
                    # Where a scheme wants assistants, the teacher stands in: its answers are not what is counted.
                    engine = assemble(
                        copy.deepcopy(student.module),
                        self.teacher.network,
                        method,
                        self.examples,
                        Fit(),
                        stage=stage,
                        assistants={"second": self.teacher.network},
                        preprocess=Preprocess.identity(),
                    )
                    peers = (network for name, network in engine.system.networks.items() if name != "student")
                    held = engine.system.terms.buffers()
                    parameters += _count(engine.system.terms) + sum(map(_count, peers))
                    buffers.append(sum(value.numel() * value.element_size() for value in held))
                return Added(parameters, max(buffers))
            for stage in method.stages:
                sources = {"student": student, "teacher": self.teacher}
                wired = wire(stage.terms, sources, Classify(), probe, self.examples.info)
                parameters += sum(_count(term.objective) for term in wired)
                held = (value for term in wired for value in term.objective.buffers())
                buffers.append(sum(value.numel() * value.element_size() for value in held))
        except ValueError as error:
            wants = next((scheme.wants for scheme in method.schemes if scheme.wants), None)
            return Added(reason=f"it learns from {wants}" if wants else shortened(str(error)))
        return Added(parameters, max(buffers))


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters() if value.requires_grad)


def shortened(message: str) -> str:
    """An error without the method's name in front of it and without the list of everything else that there is.

    >>> shortened("fsp: unequal channels; at does without")
    'unequal channels; at does without'
    >>> shortened("term 'at': VGG has no 'stage9'; name a module path instead; known: a, b, … (9 in all)")
    "VGG has no 'stage9'; name a module path instead"
    """
    message = re.sub(r"^(term '[^']+'|\w+): ", "", message)
    return re.sub(r"[;,] known: .*$", "", message, flags=re.DOTALL)
