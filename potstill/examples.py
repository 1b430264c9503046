"""What a student is taught with: loader, probe and validation data, and networks as sources whose taps are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from potstill.data.preprocess import Preprocess
from potstill.loop import Loader
from potstill.precision import Precision
from potstill.sources import Network
from potstill.taps import probe
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, DataInfo, Task


@dataclass(frozen=True)
class Examples:
    """What a cell learns from: the training loader, validation batches (or none), and what objectives may know.

    `plain` gives every training sample once, not augmented, with its index; None where a loader cannot.
    """

    loader: Loader
    info: DataInfo
    probe: Batch
    valid: Callable[[], Iterable[Batch]] | None = None
    plain: Callable[[], Iterable[Batch]] | None = None
    watched: Callable[[], Iterable[Batch]] | None = None
    """Training images that were set aside for callbacks to watch."""
    task: Any = field(default_factory=Classify)
    """Which kind of example it is, before a scheme makes another of it; has `evaluate` as `Classify` has."""

    def held(self) -> Iterable[Batch]:
        """The validation batches, of a cell that has some."""
        assert self.valid is not None, "there is no validation data"
        return self.valid()


def source(
    module: nn.Module,
    batch: Batch,
    *,
    trained: bool,
    preprocess: Preprocess | None,
    precision: Precision,
    task: Task | None = None,
) -> Network:
    """A live network with the taps that one probe finds; the network is left bit-identical."""
    device = batch.main.index.device
    precision.place(module, device)
    # The label map makes another tensor of the answer, in which the Linear that made it would not be recognised.
    unmapped = None if preprocess is None else replace(preprocess, label_map=None)
    blank = Network(module, trained=trained, preprocess=unmapped, precision=precision)
    try:
        found = probe(module, lambda: blank(task or Classify(), batch, MAIN, ()).dense())
    except BaseException as error:
        blank.close()
        if isinstance(error, RuntimeError | TypeError | IndexError | AssertionError):
            raise ValueError(f"{type(module).__name__} cannot run on {_shown(batch.main.input)}: {error}") from error
        raise
    blank.preprocess = preprocess
    return blank.with_names(found.names)


def _shown(value: Any) -> str:
    """An input, for messages."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {list(one.shape)}" for name, one in value.items())
    return f"an input of shape {list(value.shape)} and dtype {value.dtype}"
