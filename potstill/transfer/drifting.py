"""The drifting arm: as released, the network stays in training mode while its new classifier learns.

No weight of it moves, but batch norm normalises with the statistics of each batch, and its running statistics, with
which the test images are seen, drift to the new data.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.cell import train_stages
from potstill.data import batches
from potstill.examples import Examples, source
from potstill.methods import parse
from potstill.taps import Taps
from potstill.tasks.classify import Classify
from potstill.transfer.frozen import ROWS
from potstill.transfer.protocol import Asked
from potstill.types import MAIN, DataInfo, Progress

Begin = Callable[[str, int], Callable[[Progress], None]]


class Headed(nn.Module):
    """A network with a new linear layer on its embedding, which is found at a module path. Only that layer is trained;
    the network follows its mode.
    """

    def __init__(self, body: nn.Module, path: str, head: nn.Linear):
        super().__init__()
        self.body, self.head = body.requires_grad_(False), head
        self._embedding = Taps(body, {"embedding": path}, needs_gradient=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._embedding(lambda: self.body(x)).taps["embedding"])


def drifting(
    asked: Asked, begin: Begin, label: str, folder: Path | None
) -> tuple[nn.Linear, list[dict[str, Any]], float]:
    """The new classifier, the engine's rows, and how far the statistics drifted: those of a copy of the network."""
    batch, body = asked.batch, copy.deepcopy(asked.network)
    speaker = source(body, batch, trained=False, preprocess=asked.preprocess, precision=asked.precision)
    embedding = asked.checked(speaker(Classify(), batch, MAIN, ("embedding",)).taps["embedding"])
    if not _statistics(body):
        warnings.warn(
            f"{type(body).__name__} has no batch-norm statistics that could drift: the drifting arm differs from the "
            "frozen one by its dropout, if it has any",
            stacklevel=3,
        )
    headed = Headed(body, speaker.names["embedding"], asked.head(embedding.shape[1]))
    info = DataInfo(asked.loader.samples, asked.loader.batch_size, len(asked.train.classes), asked.train.labels)
    examples = Examples(asked.loader, info, batch, lambda: batches(asked.valid, ROWS, asked.device))
    _, done = train_stages(
        headed,
        None,
        parse("student"),
        lambda fit: examples,
        asked.protocol.fit,
        begin=begin,
        label=label,
        resume=True,
        folder=folder,
        seed=asked.seed,
        preprocess=asked.preprocess,
        precision=asked.precision,
    )
    moved = [
        ((after - before).abs() / (variance + eps).sqrt()).mean()
        for (before, variance, eps), (after, *_) in zip(_statistics(asked.network), _statistics(body), strict=True)
    ]
    return headed.head, done.history, float(torch.stack(moved).mean()) if moved else 0.0


def _statistics(network: nn.Module) -> list[tuple[Tensor, Tensor, float]]:
    """Running mean, running variance and epsilon of every batch norm that keeps them, on the host."""
    kept: list[Any] = [part for part in network.modules() if getattr(part, "running_mean", None) is not None]
    return [(part.running_mean.cpu().float(), part.running_var.cpu().float(), part.eps) for part in kept]
