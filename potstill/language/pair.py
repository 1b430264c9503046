"""What the settings of language recipes have in common, whatever their texts are: two networks and a tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from potstill.cell import assemble, choose_precision
from potstill.engine import Engine
from potstill.examples import Examples
from potstill.language import folder
from potstill.language.models import LanguageModel
from potstill.methods import LONE_STUDENT, Method, parse
from potstill.precision import Choice, Precision
from potstill.recipe import Fit
from potstill.types import Source


class Pair(ABC):
    """A teacher and a student of transformers on texts of one kind."""

    lessons = 1
    side_by_side = False
    if TYPE_CHECKING:  # fields of the settings, which are dataclasses

        @property
        def recipe(self) -> Any: ...

        @property
        def tokenizer(self) -> Any: ...

    @abstractmethod
    def network(self, spec: LanguageModel, role: str, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        """A network of the recipe, initialised as a function of (seed, role)."""

    @abstractmethod
    def teacher(self, module: nn.Module, precision: Precision | None = None, spec: LanguageModel | None = None) -> Any:
        """A frozen source."""

    @abstractmethod
    def examples(self, fit: Fit, seed: int | None, whole: bool = False) -> Examples:
        """Loader and validation data; `whole` of a teacher."""

    @property
    def name(self) -> str:
        return self.recipe.data.title

    @property
    def alone(self) -> Method:
        """How a teacher is trained."""
        return parse(LONE_STUDENT)

    def taught(self, spec: LanguageModel) -> bool:
        """Whether a teacher's weights know the task already."""
        return spec.taught

    def fresh(self, seed: int) -> Callable[[str], nn.Module]:
        """Makes networks like the student, whose initial weights are a function of (seed, name)."""
        return lambda name: self.network(self.recipe.student, name, seed)

    def preprocess(self, spec: LanguageModel, method: Method | None = None) -> None:
        """Tokens go in as they are."""
        return None

    def order(self, seed: int) -> int:
        return seed

    def save(self, place: Path, module: nn.Module, about: dict[str, Any]) -> None:
        """Write a network as a folder that transformers loads."""
        folder.save_folder(place, module, self.tokenizer, {"data": self.name, **about})

    def others(self, seed: int) -> dict[str, Any]:
        """What else `assemble` may need: how peers begin."""
        return {"fresh": self.fresh(seed)}

    def student(self, method: Method, seed: int, teacher: Source | None) -> nn.Module:
        """The student before its first step."""
        return self.network(self.recipe.student, "student", seed, None if teacher is None else teacher.module)

    def guide(self, seed: int) -> Source:
        """Who speaks for the teacher before it is trained or loaded."""
        return self.teacher(self.network(self.recipe.teacher, "teacher", seed))

    def check(self, methods: list[Method], seed: int) -> None:
        """Build everything once, on throw-away copies, so that mistakes show before the first step."""
        fit, teacher = self.recipe.fit, self.guide(seed)
        for method in methods:
            for stage in method.stages:
                engine = assemble(
                    self.student(method, seed, teacher),
                    teacher if method.needs_teacher else None,
                    method,
                    self.examples(fit, seed),
                    fit,
                    stage=stage,
                    **self.others(seed),
                )
                self.check_fit(method, engine)

    def check_fit(self, method: Method, engine: Engine) -> None:
        """Raises ValueError for a method that cannot learn from this data."""
        return None

    def guided(self, method: Method, teacher: Source) -> Callable[[Precision], Source] | None:
        """How a throw-away copy of the teacher is made to be measured; None: in the usual way."""
        return None

    def measure(self, methods: list[Method], seed: int, rounds: int = 3, compiling: bool = False) -> Choice:
        """The fastest precision for a step of these methods that needs no sampling, if there is one."""
        method = next((one for one in reversed(methods) if one.needs_teacher and one.scheme is None), methods[0])
        teacher = self.guide(seed)
        return choose_precision(
            self.student(method, seed, teacher),
            (teacher.module or teacher) if method.needs_teacher else None,
            method,
            self.examples(self.recipe.fit, seed),
            self.recipe.fit,
            None,
            None,
            rounds,
            guided=self.guided(method, teacher),
            **self.others(seed),
        )
