"""What a method may need besides its terms: more networks, another kind of example, something after an evaluation.

A scheme is one file in `schemes/`: its terms, and the parts that are built for each student. It knows no engine; the
engine knows no scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from potstill.sources import Network
from potstill.types import Batch, Source, Task

if TYPE_CHECKING:
    from potstill.callbacks import Callback
    from potstill.examples import Examples
    from potstill.recipe import Fit
    from potstill.stages import Stage
    from potstill.terms import Term


@dataclass(frozen=True)
class Scene:
    """What a scheme builds its parts from: one student before its first step.

    `sources` holds "student", "teacher" (if the method has one) and the recipe's assistants by name, in its order.
    `peer(name)` is another trained network like the student, with initial weights that are a function of (seed, name).
    """

    sources: Mapping[str, Source]
    examples: Examples
    fit: Fit
    seed: int
    peer: Callable[[str], Network]

    @property
    def student(self) -> Network:
        found = self.sources["student"]
        assert isinstance(found, Network)
        return found

    @property
    def teacher(self) -> Source:
        return self.sources["teacher"]

    @property
    def assistants(self) -> dict[str, Source]:
        """By name, in the order of the recipe."""
        return {name: source for name, source in self.sources.items() if name not in ("student", "teacher")}


@dataclass(frozen=True)
class Scheme:
    """A method that is more than terms. Its fields are its options in a method string, with the paper's defaults.

    Everything that it builds for a student is built anew for every stage. Random choices are functions of the scene's
    seed; what remembers something has `state_dict` (see `Stateful`).
    """

    paper: ClassVar[str] = ""
    """Authors, title, venue, year, arXiv id."""
    matches: ClassVar[str] = ""
    """As of an objective."""
    reconstruction: ClassVar[bool] = False
    """Neither the authors' code nor their equations were at hand: what it does is our reading."""
    needs_teacher: ClassVar[bool] = True
    """It listens to the recipe's teacher, whether or not a term names it."""
    needs_labels: ClassVar[bool] = False
    """Its sources or its examples are made with labels, whatever its terms need."""
    classifies: ClassVar[bool] = False
    """Its losses train the student's classifier, though none is written on `student:output`."""
    wants: ClassVar[str] = ""
    """As of an objective."""
    example: ClassVar[str] = ""
    """How it is written where the bare name does not stand alone."""
    modifies: ClassVar[bool] = False
    """It has no losses of its own, and changes what those written beside it are fed with."""
    losses: ClassVar[str] = ""
    """Of one that modifies: what is written beside it where nothing is, e.g. `ce:0+forward_kl:1`."""

    @property
    def adapts(self) -> bool:
        """The student is another network at inference too: the one that `adapt` makes."""
        return False

    def adapt(self, student: Network, batch: Batch, peer: Callable[[str], nn.Module], seed: int) -> nn.Module:
        """That network, around the student's. `peer(name)` is a network like the student, `batch` a probe."""
        raise NotImplementedError

    def terms(self) -> tuple[Term, ...]:
        """Its losses, label term included."""
        return ()

    def before(self) -> tuple[Stage, ...]:
        """Stages of its own, in front of those that its losses bring."""
        return ()

    def around(self, terms: Sequence[Term]) -> list[Term]:
        """All losses of a method in which `terms` are written beside it: they come in addition, or in place of its own
        of the same name.
        """
        written = {term.label for term in terms}
        return [*(term for term in self.terms() if term.label not in written), *terms]

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        """More sources, or others in place of those in the scene."""
        return {}

    def task(self, scene: Scene) -> Task:
        """Which kind of example it trains on; `scene.sources` holds what `sources` gave."""
        return scene.examples.task

    def examples(self, scene: Scene) -> Examples:
        """What it trains on, where that is not the recipe's own loader."""
        return scene.examples

    def callbacks(self, scene: Scene) -> Sequence[Callback]:
        """What happens after an evaluation, or at the end of an epoch."""
        return ()


@dataclass(frozen=True)
class Several(Scheme):
    """Schemes of one method, applied in the order in which they are written.

    Raises ValueError where two of them bring an example of their own.
    """

    parts: tuple[Scheme, ...] = ()
    needs_teacher: ClassVar[bool] = False  # each part says so itself

    def __post_init__(self) -> None:
        if len([part for part in self.parts if not part.modifies]) > 1:
            raise ValueError("two methods with terms of their own do not go together; take one, and modifiers")

    @property
    def adapts(self) -> bool:
        return any(part.adapts for part in self.parts)

    def adapt(self, student: Network, batch: Batch, peer: Callable[[str], nn.Module], seed: int) -> nn.Module:
        (part,) = (part for part in self.parts if part.adapts)
        return part.adapt(student, batch, peer, seed)

    def before(self) -> tuple[Stage, ...]:
        return tuple(stage for part in self.parts for stage in part.before())

    def around(self, terms: Sequence[Term]) -> list[Term]:
        found = list(terms)
        for part in sorted(self.parts, key=lambda part: part.modifies):
            found = part.around(found)
        return found

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        found: dict[str, Source] = {}
        for part in self.parts:
            found |= part.sources(replace(scene, sources={**scene.sources, **found}))
        return found

    def task(self, scene: Scene) -> Task:
        plain = scene.examples.task
        made = [task for part in self.parts if (task := part.task(scene)) is not plain]
        if len(made) > 1:
            names = " and ".join(type(task).__name__ for task in made)
            raise ValueError(f"{names} each make their own example of a batch; take one of these schemes")
        return made[0] if made else plain

    def examples(self, scene: Scene) -> Examples:
        for part in self.parts:
            scene = replace(scene, examples=part.examples(scene))
        return scene.examples

    def callbacks(self, scene: Scene) -> Sequence[Callback]:
        return [callback for part in self.parts for callback in part.callbacks(scene)]
