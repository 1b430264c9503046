"""Tiny networks, objectives, tasks and loaders, with which the tests of the engine train.

Letters in shapes: B batch, D width, K classes, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from potstill.engine import Engine
from potstill.largest import top_logits
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.terms import Term
from potstill.types import MAIN, Batch, DataInfo, LazyLogits, Objective, Outputs, View
from potstill.wiring import wire

ROWS, WIDTH, CLASSES, TOKENS, SAMPLES = 14, 6, 4, 3, 100
STUDENT, TEACHER = 5, 7
"""Widths of the two networks."""
NAMES = {"embedding": "fc.input", "hidden": "body"}


class Net(nn.Module):
    """Two layers and, between them, whatever a test puts there; plus a layer that nothing uses."""

    def __init__(self, width: int, seed: int, middle: nn.Module | None = None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Linear(WIDTH, width)
            self.unused = nn.Linear(2, 2)
            self.fc = nn.Linear(width, CLASSES)
        self.middle = middle or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(torch.tanh(self.body(x))))


class Dropout(nn.Module):
    """Dropout that keeps the masks it drew."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def forward(self, x):
        if not self.training:
            return x
        mask = 2 * (torch.rand_like(x) > 0.5).to(x.dtype)
        self.masks.append(mask)
        return x * mask


class Queue(Objective):
    """Contrast with what the last batches said; remembers both sides and the indices."""

    needs = ("index",)
    zero_at_match = False
    default_taps = ("embedding", "embedding")

    def __init__(self, student: int, teacher: int, size: int = 20):
        super().__init__()
        self.head = nn.Linear(student, teacher)
        self.register_buffer("bank", torch.linspace(-1, 1, size * teacher).view(size, teacher))
        self.register_buffer("spoken", torch.zeros(size, student))
        self.register_buffer("seen", torch.full((size,), -1))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(student.shape[1], teacher.shape[1], **kw)

    def forward(self, student, teacher, *, index):
        said = self.head(student)
        positive = (said * teacher).sum(1, keepdim=True)
        return torch.cat([positive, said @ self.bank.T], 1).logsumexp(1) - positive[:, 0]

    def update(self, student, teacher, *, index):
        for buffer, new in ((self.bank, teacher), (self.spoken, student), (self.seen, index)):
            buffer.copy_(torch.cat([new.to(buffer.dtype), buffer])[: len(buffer)])


class Normalised(Objective):
    """Distance in units of what the first global batch measured."""

    needs = ("index",)
    default_taps = ("embedding", "embedding")

    def __init__(self, student: int, teacher: int):
        super().__init__()
        self.head = nn.Linear(student, teacher)
        self.register_buffer("unit", torch.zeros(()))
        self.register_buffer("first", torch.full((5,), -1))
        self.register_buffer("primed", torch.zeros((), dtype=torch.int64))

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(student.shape[1], teacher.shape[1])

    def forward(self, student, teacher, *, index):
        return (self.head(student) - teacher).square().sum(1) / self.unit

    def prime(self, student, teacher, *, index):
        self.unit.copy_(teacher.square().sum(1).mean() + student.abs().sum(1).mean())
        self.first.copy_(index[:5])
        self.primed.add_(1)


class Drawn(Objective):
    """Distance, weighted by a random number for each sample; keeps the numbers for the test to look at."""

    needs = ("draw",)
    default_taps = ("hidden", "output")

    def __init__(self, student: int, teacher: int):
        super().__init__()
        self.head = nn.Linear(student, teacher)
        self.draws: list[Tensor] = []

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls(student.shape[1], teacher.shape[1])

    def forward(self, student, teacher, *, draw):
        self.draws.append(draw)
        return (draw % 997).to(student.dtype) / 997 * (self.head(student) - teacher).square().sum(1)


class Distance(Objective):
    """Squared distance per sample, `[B, …] -> [B]`: a sample of several tokens is one unit."""

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls()

    def forward(self, student, teacher):
        return (student - teacher).square().flatten(1).sum(1)


class Gram(Objective):
    """One number for the whole batch: distance of the matrices of inner products, among the rows that count."""

    needs = ("mask",)
    scope = "batch"
    default_taps = ("embedding", "embedding")

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls()

    def forward(self, student, teacher, *, mask):
        pairs = (mask[:, None] & mask[None]).to(student.dtype)
        return ((student @ student.T - teacher @ teacher.T).square() * pairs).sum()[None] / pairs.sum()


class Scores(Classify):
    """Retrieval in the small: the answer is every sample's similarity to every sample of the batch."""

    combine_scope = "batch"

    def combine(self, outputs, batch):
        return {
            source: {view: replace(o, output=4 * o.output @ o.output.T) for view, o in views.items()}
            for source, views in outputs.items()
        }


class LazyHead(Classify):
    """The last layer is left to the losses: no logits are made."""

    def forward(self, model, batch, view):
        hidden = model.middle(torch.tanh(model.body(batch.views[view].input)))
        return LazyLogits(hidden, model.fc.weight, model.fc.bias)


class LargestOfTeacher(LazyHead):
    """Of what the teacher says the two most probable classes are known; the student's head is left to the losses."""

    def forward(self, model, batch, view):
        answer = super().forward(model, batch, view)
        return answer if model.fc.in_features == STUDENT else top_logits(answer.dense(), 2, 4.0)


class Differences(Classify):
    """What changed between two looks at the same sample, as a view of its own."""

    derived: ClassVar = {"difference": (MAIN, "other")}

    def prepare(self, batch, sources, progress, seed):
        return (batch.with_view("difference", replace(batch.main, input=None)),)

    def combine(self, outputs, batch):
        return {
            source: views | {"difference": self._difference(views)} if {MAIN, "other"} <= views.keys() else views
            for source, views in outputs.items()
        }

    def _difference(self, views):
        main, other = views[MAIN], views["other"]
        taps = {name: main.taps[name] - other.taps[name] for name in main.taps.keys() & other.taps.keys()}
        return Outputs(main.output - other.output, taps)


class Given:
    """A loader of ready batches, of which a rank gets its part."""

    def __init__(self, batches: Sequence[Batch], rank: int = 0, world: int = 1, exact: bool = True):
        self.batches, self.rank, self.world, self.exact = list(batches), rank, world, exact
        self.steps = len(self.batches)

    def epoch(self, epoch: int, start: int = 0):
        for batch in self.batches[start:]:
            yield batch.split(self.world)[self.rank]


def example(step: int, rows: int = ROWS, mask: bool = False) -> Batch:
    """A batch of vectors with two views."""
    generator = torch.Generator().manual_seed(step)
    index = torch.randperm(SAMPLES, generator=generator)[:rows]
    label = torch.randint(0, CLASSES, (rows,), generator=generator)
    # Unevenly, and nothing at all in the middle.
    counts = (torch.arange(rows) % 3 != 0) & ((torch.arange(rows) < 5) | (torch.arange(rows) > 8)) if mask else None
    first, second = (torch.randn(rows, WIDTH, generator=generator) for _ in range(2))
    return Batch({MAIN: View(first, index, label, counts), "other": View(second, index, label, counts)})


def sequences(step: int, rows: int = ROWS) -> Batch:
    """A batch of sequences, of which very different numbers of tokens count."""
    generator = torch.Generator().manual_seed(step)
    lengths = torch.tensor([3, 3, 3, 0, 0, 1, 2, 0, 0, 0, 0, 1, 3, 0])[:rows]
    view = View(
        torch.randn(rows, TOKENS, WIDTH, generator=generator),
        torch.randperm(SAMPLES, generator=generator)[:rows],
        torch.randint(0, CLASSES, (rows, TOKENS), generator=generator),
        torch.arange(TOKENS)[None] < lengths[:, None],
    )
    return Batch({MAIN: view})


FIT = Fit(epochs=1, batch_size=ROWS, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")


def make(
    terms: Sequence[Term],
    batches: Sequence[Batch],
    *,
    task: Classify | None = None,
    fit: Fit = FIT,
    precision: str = "float32",
    middle: nn.Module | None = None,
    rank: int = 0,
    world: int = 1,
    seed: int = 3,
    exact: bool = True,
    teacher: nn.Module | None = None,
    **engine,
) -> Engine:
    """An engine for a small student and a small teacher, as the library puts one together."""
    chosen, task = Precision.named(precision), task or Classify()
    sources = {
        name: Network(chosen.place(module, "cpu"), trained=name == "student", names=NAMES, precision=chosen)
        for name, module in (("student", Net(STUDENT, 1, middle)), ("teacher", teacher or Net(TEACHER, 2)))
    }
    wired = wire(terms, sources, task, batches[0], DataInfo(SAMPLES, len(batches[0]), CLASSES), seed)
    loader = Given(batches, rank, world, exact)
    return Engine(task=task, sources=sources, terms=wired, loader=loader, fit=fit, seed=seed, **engine)
