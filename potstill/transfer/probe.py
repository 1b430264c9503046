"""The linear probe: how much about new classes a linear layer can read off a network's embedding."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from torch import nn

from potstill.data import Images, Preprocess
from potstill.precision import Precision
from potstill.transfer.drifting import Begin, drifting
from potstill.transfer.frozen import frozen
from potstill.transfer.protocol import Asked, Probed, Protocol


def linear_probe(
    network: nn.Module,
    train: Images,
    valid: Images,
    protocol: Protocol | None = None,
    *,
    preprocess: Preprocess | None = None,
    precision: Precision | None = None,
    seed: int = 0,
    begin: Begin | None = None,
    label: str = "probe",
    folder: Path | None = None,
) -> Probed:
    """Train a new linear layer on the embedding of `network`, whose weights, statistics and modes stay as they are.

    `network` is any module with logits that an `nn.Linear` makes; it moves to the device of `train`. `preprocess`
    defaults to the mean and standard deviation of `train`. The layer, the order of the images and, where views are
    fresh, their augmentation are functions of `seed`. `begin(label, steps)` returns what is told of the progress.
    In `folder` the drifting arm keeps a checkpoint; it goes on from one that is there.

    Raises:
        ValueError: a network without an embedding `[B, D]` or that cannot run on the images, splits of different
            classes, a layer that diverges.

    >>> found = linear_probe(student, train, valid, Protocol(arm="drifting", views=None))    # doctest: +SKIP
    >>> found.top1                                                                           # doctest: +SKIP
    """
    if tuple(train.classes) != tuple(valid.classes):
        raise ValueError(f"{train.name}: the training and the validation images have different classes")
    if not train.labelled:
        raise ValueError(f"{train.name} has no labels, and a linear probe is trained and judged by labels")
    started = time.perf_counter()
    asked = Asked(
        network,
        train,
        valid.to(train.images.device),
        protocol or Protocol(),
        replace(preprocess or Preprocess.of(train), label_map=None),
        precision or Precision(),
        seed,
    )
    begin = begin or (lambda label, steps: lambda progress: None)
    if asked.protocol.arm == "frozen":
        head, history = frozen(asked, begin(label, asked.protocol.epochs * asked.loader.steps))
        drift = None
    else:
        head, history, drift = drifting(asked, begin, label, folder)
    found = [row["top1"] for row in history if "top1" in row]
    return Probed(head, found[-1], max(found), time.perf_counter() - started, drift, history)
