"""Training labels that are wrong, and classes of unequal size: what a study of robustness does to good data.

Only the training split is changed. Which samples are concerned is a function of (`data_seed`, row), so that teacher and
students, every method and every seed of a comparison see the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.data.spec import Data, Images
from potstill.data.stream import Stream
from potstill.hashing import hash_index, uniform_int

TAIL = 1 / 3
"""Part of the classes, the rarest, whose accuracy stands beside that of all."""


def degraded(data: Data, train: Images | Stream) -> Images | Stream:
    """The training split with `data.imbalance` and then `data.label_noise`; itself where neither is asked for.

    Notes say what was done, and the fingerprint differs from that of the data as it was.

    Raises:
        ValueError: a class would be left without an image.
    """
    if data.imbalance > 1:
        labels = train.labels.cpu().numpy()
        rows = torch.from_numpy(long_tail(labels, train.classes, data.imbalance, data.data_seed))
        counts = np.bincount(labels[rows.numpy()], minlength=len(train.classes))
        note = (
            f"data.imbalance={data.imbalance:g}: {len(rows):,} of {len(labels):,} training images are kept, "
            f"{counts[0]:,} of class {train.classes[0]!r} down to {counts[-1]:,} of {train.classes[-1]!r}; "
            "validation images are as they were"
        )
        mark = f"imbalance {data.imbalance:g}, seed {data.data_seed}"
        train = replace(train.take(rows, f"{train.split}, {mark}"), notes=(*train.notes, note))
    if data.label_noise > 0:
        labels = flipped(train.labels, len(train.classes), data.label_noise, data.data_seed)
        count = int((labels != train.labels).sum())
        note = (
            f"data.label_noise={data.label_noise:g}: {count:,} of {len(labels):,} training labels are flipped to "
            "another class; validation labels are as they were"
        )
        mark = f"label noise {data.label_noise:g}, seed {data.data_seed}"
        rows = torch.arange(len(labels), device=labels.device)
        train = replace(train.take(rows, f"{train.split}, {mark}"), labels=labels, notes=(*train.notes, note))
    return train


def flipped(labels: Int64[Tensor, " N"], classes: int, rate: float, seed: int = 0) -> Int64[Tensor, " N"]:
    """Labels of which round(`rate` N) are wrong, each uniform over the other classes (symmetric noise).

    Raises:
        ValueError: there is one class only.

    >>> labels = torch.arange(10) % 5
    >>> (flipped(labels, 5, 0.4) != labels).sum()
    tensor(4)
    """
    if classes < 2:
        raise ValueError(f"label noise needs another class to flip to, got {classes} class(es)")
    index = torch.arange(len(labels), device=labels.device)
    order = hash_index(index, seed, "label noise").argsort(stable=True)
    wrong = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    wrong[order[: round(rate * len(labels))]] = True
    by = 1 + uniform_int(index, classes - 1, seed, "label noise", "class")
    return torch.where(wrong, (labels + by) % classes, labels)


def long_tail(labels: np.ndarray, classes: tuple[str, ...], ratio: float, seed: int = 0) -> np.ndarray:
    r"""Rows to keep, in order, so that class c of C has $n_c = \lfloor n_0 \rho^{-c/(C-1)} \rfloor$ images.

    The first class is the largest. Of $N_c$ images each, $n_0 = \lfloor \min_c N_c \rho^{c/(C-1)} \rfloor$:
    all of the first class where classes are of one size, fewer where a later one would not have enough. Formula and
    rounding are those of Cui et al., *Class-Balanced Loss Based on Effective Number of Samples*, CVPR 2019,
    arXiv:1901.05555.

    Raises:
        ValueError: a class would be left without an image.
    """
    counts = np.bincount(labels, minlength=len(classes))
    share = ratio ** (-np.arange(len(classes)) / max(len(classes) - 1, 1))
    largest = int(np.floor((counts / share).min() + 1e-9))
    wanted = np.floor(largest * share + 1e-9).astype(np.int64)
    if (wanted < 1).any():
        place = int(np.flatnonzero(wanted < 1)[0])
        raise ValueError(
            f"data.imbalance={ratio:g} leaves class {classes[place]!r} ({place}) without an image: it has "
            f"{counts[place]} of {len(labels)}; take a smaller imbalance, or more images"
        )
    order = np.argsort(hash_index(torch.arange(len(labels)), seed, "imbalance").numpy(), kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]
    turn = np.concatenate([np.arange(count) for count in counts])  # how many of its class came before
    return np.sort(by_class[turn < wanted[labels[by_class]]])


def tail_accuracy(predictions: Int64[Tensor, " N"], labels: Int64[Tensor, " N"], classes: int) -> float | None:
    """Percentage of right answers among the images of the `rarest` classes; None where there are none.

    >>> tail_accuracy(torch.tensor([0, 0, 2, 0]), torch.tensor([0, 1, 2, 2]), 3)
    50.0
    """
    rare = labels >= rarest(classes).start
    right = (predictions == labels) & rare
    return 100 * right.sum().item() / rare.sum().item() if rare.any() else None


def rarest(classes: int) -> range:
    """The classes of the tail: the last third, at least one.

    >>> rarest(100), rarest(2)
    (range(67, 100), range(1, 2))
    """
    return range(classes - max(1, round(TAIL * classes)), classes)
