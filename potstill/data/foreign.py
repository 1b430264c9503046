"""Data that Potstill did not read: tensors, a `Dataset`, or somebody's `DataLoader`, as loaders of the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from potstill.hashing import hash_index
from potstill.types import MAIN, Batch, View


class Given:
    """Training batches of somebody else's loader, whose order and augmentation are its own.

    It may yield `(input, label)`, `(input, label, index)`, or a mapping with the keys `input`, `label` and perhaps
    `index`. Without an index `indexed` is False, and methods that keep something per sample are refused. `steps` is
    its length. A run resumes at the beginning of an epoch. Once `classes` is set, labels are checked against it.
    """

    exact = False
    classes: int | None = None

    def __init__(self, loader: Iterable[Any], device: torch.device | str):
        if not isinstance(loader, Sized):
            raise ValueError(
                f"{type(loader).__name__} has no length; give a loader whose len() is its batches per epoch"
            )
        self.loader, self.device, self.steps = loader, device, len(loader)
        first = next(iter(loader), None) if self.steps else None
        if first is None:
            raise ValueError("the loader is empty: it has no batch (drop_last with fewer samples than a batch?)")
        first = as_batch(first, 0, "cpu")
        self.indexed = first[1]
        self.batch_size = len(first[0])
        self.labels = labels_of(loader)
        known = isinstance(loader, DataLoader)
        self.samples = len(cast(Sized, loader.dataset)) if known else self.steps * self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        position = given = 0
        for step, item in enumerate(self.loader):
            if step >= self.steps:
                return
            batch, _ = as_batch(item, position, self.device, self.classes)
            position, given = position + len(batch), step + 1
            if step >= start:
                yield batch
        if given < self.steps:
            raise ValueError(
                f"the loader gave {given} of its {self.steps} batches in pass {epoch + 1} over the data; it must give "
                "all of them every time, so it cannot be an iterator that is read once"
            )


class Ordered:
    """Training batches of a map-style `Dataset` in Potstill's own order, a function of (seed, epoch).

    Items are `(input, label)` or mappings, as for `Given`. A run resumes at the beginning of an epoch, because the
    data set's own transforms may be random. Once `classes` is set, labels are checked against it. Tensors are the same
    every time: their batches say that they show view 0.
    """

    exact = False
    indexed = True
    classes: int | None = None

    def __init__(self, dataset: Dataset, batch_size: int, device: torch.device | str, seed: int = 0):
        self.dataset, self.batch_size, self.device, self.seed = dataset, batch_size, device, seed
        self.samples = len(cast(Sized, dataset))
        self.number = 0 if type(dataset) is TensorDataset else None
        self.steps = self.samples // batch_size
        if self.steps == 0:
            raise ValueError(f"the data set has {self.samples} samples, fewer than one batch of {batch_size}")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.argsort(hash_index(torch.arange(self.samples), self.seed, epoch, "order"), stable=True)
        order = order[: self.steps * self.batch_size]
        loader = DataLoader(Subset(self.dataset, order.tolist()), batch_size=self.batch_size)
        for step, item in enumerate(loader):
            if step >= start:
                index = order[step * self.batch_size :][: self.batch_size]
                view = as_batch(item, 0, "cpu")[0].main
                if self.classes is not None and view.label is not None:
                    check_labels(view.label, self.classes, index)
                yield Batch({MAIN: View(view.input, index, view.label, number=self.number).to(self.device)})


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair of tensors as a cache needs it: inputs `[N, ...]` of any dtype, and int64 `[N]` labels."""

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """A hash of inputs and labels."""
        shapes = [(str(part.dtype), tuple(part.shape)) for part in (self.images, self.labels)]
        digest = hashlib.blake2b(repr(shapes).encode(), digest_size=8)
        for part in (*self.images.split(4096), self.labels):
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def in_order(data: Any, batch_size: int, device: torch.device | str, classes: int | None = None) -> Iterator[Batch]:
    """Evaluation batches of a `Dataset` or of somebody's loader."""
    loader = DataLoader(data, batch_size=batch_size) if isinstance(data, Dataset) else data
    position = 0
    for item in loader:
        batch, _ = as_batch(item, position, device, classes)
        position += len(batch)
        yield batch
    if position == 0:
        raise ValueError("the validation data is empty: it gives no batch")


def labels_of(data: Any) -> Tensor | None:
    """All labels, where they lie in plain sight: in a `TensorDataset`, or in a loader of one."""
    data = data.dataset if isinstance(data, DataLoader) else data
    return data.tensors[1] if isinstance(data, TensorDataset) and len(data.tensors) > 1 else None


def check_labels(labels: Tensor, classes: int, index: Tensor | None = None) -> None:
    """Raises ValueError, naming the first label outside [0, classes) and its sample."""
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        sample = first if index is None else int(index[first])
        raise ValueError(
            f"label {int(labels[first])} (sample {sample}) is out of range: the teacher answers with {classes} "
            f"classes, so labels lie in [0, {classes - 1}]"
        )


def as_batch(item: Any, position: int, device: torch.device | str, classes: int | None = None) -> tuple[Batch, bool]:
    """What a loader yields as a `Batch`, and whether it came with an index. Raises ValueError, saying what came."""
    if isinstance(item, Mapping):
        inputs, label, index = item.get("input"), item.get("label"), item.get("index")
    elif isinstance(item, list | tuple) and len(item) in (2, 3):
        inputs, label, index = (*item, None)[:3]
    else:
        inputs = label = index = None
    if not isinstance(inputs, Tensor) or not isinstance(label, Tensor):
        raise ValueError(
            f"the loader yields {_shape(item)}; expected (input, label), (input, label, index) or a mapping with "
            "'input' and 'label', all tensors"
        )
    if label.ndim != 1 or len(label) != len(inputs) or label.is_floating_point():
        raise ValueError(
            f"labels have shape {list(label.shape)} and dtype {label.dtype}; expected one class number for each of the "
            f"{len(inputs)} inputs"
        )
    given = index is not None
    index = index if given else torch.arange(position, position + len(inputs))
    if classes is not None:
        check_labels(label, classes, index)
    return Batch({MAIN: View(inputs, index.long(), label.long()).to(device)}), given


def _shape(item: Any) -> str:
    if isinstance(item, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, item))}"
    if isinstance(item, list | tuple):
        return f"{type(item).__name__} of {len(item)} ({', '.join(type(part).__name__ for part in item)})"
    return f"a {type(item).__name__}"
