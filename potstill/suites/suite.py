"""What a suite of measurements is: its options, its columns, and what it measures of one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch

from potstill.console import Talk
from potstill.data import Split
from potstill.sources import Network


@dataclass(frozen=True)
class Seen:
    """What a suite measures on: the run's images, training ones without augmentation, its teacher where it has one, and
    where it computes.

    `memory` is the suite's, empty for every run: for what is the same for all its networks. `tick` moves the progress
    bar by one of the suite's `ticks`.
    """

    train: Split
    valid: Split
    device: torch.device
    talk: Talk
    teacher: Network | None = None
    memory: dict[Any, Any] = field(default_factory=dict)
    tick: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Suite:
    """A frozen dataclass whose fields are options of `potstill evaluate --suite NAME`.

    A network comes frozen, in evaluation mode, with its own preprocessing and label map.
    """

    title: ClassVar[str] = ""
    """What is measured, for the head of the table."""
    classifies: ClassVar[bool] = False
    """It asks for classes: of a student that learnt none (`Cell.classifies`) nothing is measured."""

    def columns(self) -> Mapping[str, str]:
        """What is measured: names as they stand in the file, and headings of the table."""
        raise NotImplementedError

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Titles of several tables, and the columns of each."""
        return {self.title: tuple(self.columns())}

    def better(self) -> Mapping[str, Literal["higher", "lower"]]:
        """Which columns are compared with the lone student's, most important first, and which way is better."""
        return {}

    def notes(self) -> tuple[str, ...]:
        """Sentences below the table."""
        return ()

    def smoke(self) -> Self:
        """The same at its smallest size, to see that everything works."""
        return self

    def ticks(self, seen: Seen) -> int:
        """How many times `measure` calls `seen.tick()` for a network."""
        return 1

    def measure(self, network: Network, seen: Seen) -> Mapping[str, Any]:
        """A number (or None) for each column, and anything else that the file should hold."""
        raise NotImplementedError
