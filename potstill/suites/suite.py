"""What a suite of measurements is: its options, its columns, and what it measures of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from potstill.console import Talk
from potstill.data import Split
from potstill.sources import Network


@dataclass(frozen=True)
class Seen:
    """What a suite measures on: the run's images, training ones without augmentation, and where it computes."""

    train: Split
    valid: Split
    device: torch.device
    talk: Talk


@dataclass(frozen=True)
class Suite:
    """A frozen dataclass whose fields are options of `potstill evaluate --suite NAME`.

    A network comes frozen, in evaluation mode, with its own preprocessing and label map.
    """

    title: ClassVar[str] = ""
    """What is measured, for the head of the table."""

    def columns(self) -> Mapping[str, str]:
        """What is measured: names as they stand in the file, and headings of the table."""
        raise NotImplementedError

    def notes(self) -> tuple[str, ...]:
        """Sentences below the table."""
        return ()

    def measure(self, network: Network, seen: Seen) -> Mapping[str, float | None]:
        """A number (or None) for each column, and for anything else that the file should hold."""
        raise NotImplementedError
