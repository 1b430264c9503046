"""The contracts: what a batch, an output, an objective, a source and a task are.

Nothing here trains anything. Letters in shapes: B batch, D width, K classes, T tokens, V vocabulary,
N candidates, C channels, H height, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from potstill.batch import (
    MAIN,
    PLAIN,
    Answer,
    Batch,
    LazyLogits,
    Outputs,
    Progress,
    Side,
    SourceOutputs,
    Tensors,
    TopLogits,
    View,
)

if TYPE_CHECKING:
    from potstill.stages import Stage
    from potstill.terms import Term

__all__ = [
    "MAIN",
    "PLAIN",
    "Answer",
    "Apart",
    "Batch",
    "DataInfo",
    "Follows",
    "LazyLogits",
    "LiveSource",
    "Objective",
    "Outputs",
    "Primes",
    "Progress",
    "Side",
    "Source",
    "SourceOutputs",
    "Stateful",
    "Task",
    "Teaches",
    "Tensors",
    "TopLogits",
    "Updates",
    "View",
]


Listen = Callable[["LiveSource", Sequence[str]], Outputs]


@dataclass(frozen=True)
class DataInfo:
    """What an objective may know of the data when it is built.

    `samples` is the number of training samples (indices lie in [0, samples)), `classes` the number of labels or
    None, `batch_size` the global batch, `labels` the label of every training sample where they are known. `indexed`
    says whether a sample's index is its own in every epoch; a foreign loader may not know it. `matched` `[2, M]` are
    the tokens that two vocabularies share: their ids in the student's, and in the teacher's.
    """

    samples: int
    batch_size: int
    classes: int | None = None
    labels: Tensor | None = field(default=None, compare=False, repr=False)
    indexed: bool = True
    matched: Tensor | None = field(default=None, compare=False, repr=False)


class Objective(nn.Module):
    """What to match. One formula with its own parameters and buffers; knows no model, config, device or epoch.

    `forward(student, teacher, *, <extras named in needs>)` returns unreduced losses, one per unit: `[B]`, or
    `[B, T]` for tokens. It has no side effect and draws no random numbers (ask for `draw`). The fields below are
    declarations, never behaviour; an instance may override any of them.

    Optional methods: `update(student, teacher, *, …)` changes buffers, once per optimizer step and before the
    weights move; `prime(student, teacher, *, …)` sets them once before the first `forward`. Both get the whole
    global batch, in data order, without gradient.
    """

    needs: tuple[str, ...] = ()
    """Names of extras: label, index, mask, draw, or a key of `View.extras` or of an input that is a mapping."""
    scope: Literal["unit", "batch"] = "unit"
    """"batch" where the loss relates samples of the batch to each other."""
    zero_at_match: bool = True
    """The loss is 0 where student and teacher are equal (and there is no projection between them)."""
    batch_statistics: bool = False
    """It contains batch normalisation, so a split batch gives another value."""
    default_weight: ClassVar[float] = 1.0
    default_taps: ClassVar[tuple[str | None, str | None]] = ("output", "output")
    """Left and right address; None where the loss has one side only."""
    lazy: bool = False
    """A unit's loss is a function of its own row of logits (and of extras), so both sides may be `LazyLogits`."""
    takes_top: bool = False
    """The right side may be `TopLogits`: the same formula, of the k tokens and of one class for all others."""
    paired: ClassVar[bool] = True
    """Several taps are compared one by one: of two networks with unequally many stages the deepest are taken."""
    paper_terms: ClassVar[str | None] = None
    """What the bare method name stands for, e.g. `ce:0.1+kd:0.9`; None: `ce:1` in front of it."""
    warm_up: ClassVar[float] = 0.0
    """Fraction of the run over which the weight grows linearly, as published."""
    needs_modules: ClassVar[bool] = False
    """It is built from modules of the teacher (its classifier, its batch norms): no cache can stand for that one."""
    tail_spread: ClassVar[bool] = False
    """It may read logits of which only the largest are known and the others' mass is spread evenly, where that was done
    at its own `temperature`."""
    wants: ClassVar[str] = ""
    """What it reads that not every kind of example has, in words."""
    part_of: ClassVar[str | None] = None
    """For a formula that is no method by itself: what it is a part of. A method string refuses it."""
    paper: ClassVar[str] = ""
    """Authors, title, venue, year, arXiv id."""
    matches: ClassVar[str] = ""
    """What is matched: logits, features, relations (of samples or of layers), contrast or labels."""
    reconstruction: ClassVar[bool] = False
    """Neither the authors' code nor their equations were at hand: what it computes is our reading."""
    searched: ClassVar[tuple[str, ...]] = ("temperature",)
    """Options that fair tuning varies besides the weight, where the constructor has them."""
    weight_from: ClassVar[str] = ""
    """Whose `default_weight` it is."""

    @classmethod
    @abstractmethod
    def sized(
        cls,
        student: Tensors | None,
        teacher: Tensors | None,
        data: DataInfo,
        modules: Mapping[str, nn.Module],
        **kw,
    ) -> Objective:
        """Build one from observed tensors: nobody types a channel count. `modules` are the teacher's."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, student: Any, teacher: Any, **extras: Tensor) -> Tensor:
        raise NotImplementedError

    @classmethod
    def expand(cls, term: Term) -> tuple[tuple[Stage, ...], tuple[Term, ...]]:
        """For a method that is more than a term: the stages before the main one, and what `term` is in that."""
        return (), (term,)

    @classmethod
    def adapt(cls, student: LiveSource, teacher: LiveSource, listen: Listen, **kw) -> nn.Module | None:
        """For a method whose student is another network at inference too: that network, around the student's.

        `listen(source, taps)` runs a source on a probe batch. None: the student stays what it is.
        """
        return None


@runtime_checkable
class Updates(Protocol):
    """An objective with state that follows training (a queue, a memory bank)."""

    def update(self, student: Any, teacher: Any, **extras: Tensor) -> None: ...


@runtime_checkable
class Primes(Protocol):
    """An objective that looks at the first global batch before its first forward (CRD's normaliser)."""

    def prime(self, student: Any, teacher: Any, **extras: Tensor) -> None: ...


@runtime_checkable
class Source(Protocol):
    """Who speaks: one network or something that stands for it (a cache, a blend, a budget)."""

    @property
    def trained(self) -> bool:
        """Its parameters get gradients: it is wrapped with the student, optimised and checkpointed."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The live network for `Task.prepare`; None where there is none to show (cached, budgeted)."""
        ...

    @property
    def provides(self) -> frozenset[str] | None:
        """Tap names it can give; None: any module path."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of weights, dtype and preparation."""
        ...

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs: ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source with a network that can be evaluated."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode without gradient, then back as it was."""
        ...

    def with_module(self, module: nn.Module) -> LiveSource:
        """The same source with other weights."""
        ...


@runtime_checkable
class Apart(Protocol):
    """A trained source whose optimizer is a matter of its own: its gradient is clipped by itself."""

    @property
    def rate(self) -> float:
        """Its learning rate, as a multiple of the run's."""
        ...


@runtime_checkable
class Follows(Protocol):
    """A source that moves after the optimizer has moved the student (a teacher that is its moving average)."""

    def follow(self) -> None: ...


@runtime_checkable
class Teaches(Protocol):
    """A trained source that students listen to as to a teacher: it makes its own control, a source that says what it
    would say about another sample.
    """

    def shuffled(self) -> Source: ...


@runtime_checkable
class Task(Protocol):
    """Which kind of example. What differs between classification, language and retrieval, and nothing else."""

    @property
    def combine_scope(self) -> Literal["unit", "batch"]:
        """ "batch": `combine` relates samples, so its inputs are gathered over ranks and micro-batches."""
        ...

    @property
    def derived(self) -> Mapping[str, tuple[str, ...]]:
        """Views that `combine` makes, and the views that it makes them from; usually empty. `prepare` gives a derived
        view its rows (index, label, mask) with `input=None`; no network sees it.
        """
        ...

    @property
    def steps_per_batch(self) -> int:
        """How many batches, and so optimizer steps, `prepare` makes of one loader batch."""
        ...

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        """Make the training example and name its views; several batches mean several optimizer steps."""
        ...

    def forward(self, model: nn.Module, batch: Batch, view: str) -> Answer:
        """Run the network on one view."""
        ...

    def combine(self, outputs: SourceOutputs, batch: Batch) -> SourceOutputs:
        """Form what must be formed alike on both sides (in-batch scores, group differences). `input` may be None."""
        ...

    def mask(self, batch: Batch, view: str) -> Tensor | None:
        """Which units count; None: all. `input` may be None."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """Whatever remembers something between steps and must survive a kill."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
