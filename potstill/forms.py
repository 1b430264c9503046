"""Data of any form as what a cell learns from, and as what a cache of the teacher can be written from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from potstill.data import Split, batches, training
from potstill.data.foreign import Given, Ordered, Pair, check_labels, in_order, labels_of
from potstill.data.stream import Stream
from potstill.examples import Examples
from potstill.recipe import Fit
from potstill.types import Batch, DataInfo

EVALUATION_BATCH = 256


def examples_of(data: Any, fit: Fit, device: torch.device, seed: int) -> Examples:
    """A loader for whatever was given, and the first batch for the probe."""
    data, labels = _resident(data, "train")
    if isinstance(data, Split):
        views = views_of(data, fit)
        loader: Any = training(
            data, fit.batch_size, augment="none", seed=seed, views=views, device=device, drop_last=fit.drop_last
        )
    elif isinstance(data, Dataset):
        loader = Ordered(data, fit.batch_size, device, seed)
    else:
        loader = Given(data, device)
    info = DataInfo(loader.samples, loader.batch_size, labels=labels, indexed=getattr(loader, "indexed", True))
    known = not isinstance(loader, Given)  # somebody's loader has an order and an augmentation of its own
    return Examples(loader, info, next(iter(loader.epoch(0))), plain=_all_of(data, device) if known else None)


def held(valid: Any, device: torch.device, classes: int) -> Callable[[], Iterator[Batch]] | None:
    """Evaluation batches of whatever was given; None where nothing was."""
    found, labels = _resident(valid, "valid")
    if found is None:
        return None
    if labels is not None:
        check_labels(labels, classes)
    return _all_of(found, device, classes)


def _all_of(data: Any, device: torch.device, classes: int | None = None) -> Callable[[], Iterator[Batch]]:
    """Every sample once, in order; of a Split as it is, not augmented."""
    if isinstance(data, Split):
        return lambda: batches(data, EVALUATION_BATCH, device)
    return lambda: in_order(data, EVALUATION_BATCH, device, classes)


def augmentation(data: Any) -> str:
    """What happens to a sample on its way into a batch."""
    return data.pictures.augment if isinstance(data, Stream) else "none"


def views_of(data: Any, fit: Fit) -> int:
    """How many views of each sample a student sees: one of data that is taken as it is, else one an epoch."""
    return 1 if augmentation(data) == "none" else fit.epochs


def findable(data: Any, device: torch.device) -> Split | Pair:
    """The data as what a cache is written from: any sample, in any of its views, can be shown again.

    Raises ValueError for data of which Potstill does not know how a sample comes about.
    """
    found, _ = _resident(data, "train")
    if isinstance(found, Split):
        return found.to(device)
    if type(found) is TensorDataset and len(found.tensors) == 2:
        return Pair(*(part.to(device).contiguous() for part in found.tensors))
    raise ValueError(
        f"cache: a {type(data).__name__} orders or changes its samples in a way of its own, so what the teacher said "
        "of one cannot be found again; give a pair of tensors (inputs, labels), potstill.Images or a potstill Stream "
        "(potstill.data.load reads folders and files), or leave out cache"
    )


def _resident(data: Any, split: str) -> tuple[Any, Tensor | None]:
    """A pair of tensors becomes a data set; the labels are given back where they are known."""
    if isinstance(data, Split):
        return data, data.labels
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise ValueError(f"{split} data: {len(data[0])} inputs but {len(data[1])} labels")
        return TensorDataset(*data), data[1]
    return data, labels_of(data) if isinstance(data, Dataset) else None
