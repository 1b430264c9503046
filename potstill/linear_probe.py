"""The linear probe: how much about new classes a linear layer can read off a network's embedding.

The network's weights stay as they are; a new classifier `[K, D]`, drawn from N(0, 0.01²) with biases of 0, learns from
the embedding (the input of the network's own classifier, wherever that is) by cross-entropy. Two arms:

- `frozen`: the network in evaluation mode. Its embedding is a function of the image alone, so it is computed once for
  each augmented view, in large batches, and the classifier learns from what is stored.
- `drifting`: the released script, which leaves the network in training mode: batch norm normalises with the statistics
  of the batch, and its running statistics, with which the test images are seen, drift to the new data. Every step runs
  the network, a copy of it.

Protocol: `transfer_student.py` of the code released with ICD (arXiv 2407.11802), its version of September 2024.
Letters in shapes: N images, D width of the embedding, K classes.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from potstill.cell import Examples, source, train_stages
from potstill.data import Augment, Images, Preprocess, Resident, augmented, batches, first
from potstill.errors import did_you_mean
from potstill.hashing import hash_int
from potstill.methods import parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.schedules import Milestones
from potstill.sources import Network
from potstill.taps import Taps
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, DataInfo, Progress, View

Arm = Literal["frozen", "drifting"]
VIEWS = 8
"""Views of each image that the frozen arm stores, where nothing else is said."""
ROWS = 512
"""Images whose embedding is computed at once."""
LOOKED_AT = 4
"""Images that the network is probed with."""

Begin = Callable[[str, int], Callable[[Progress], None]]


@dataclass(frozen=True)
class Protocol:
    """How a probe is trained. The defaults are the released script's, but for arm and views.

    `views` fixed augmented views of each image are cycled over the epochs; with None every epoch has a view of its own,
    as released. `Protocol(arm="drifting", views=None)` is the released protocol in all.
    """

    arm: Arm = "frozen"
    epochs: int = 120
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    augment: Augment = "crop-flip"
    views: int | None = VIEWS
    data_seed: int = 0
    evaluate_every: int = 10

    def __post_init__(self) -> None:
        if self.arm not in get_args(Arm):
            raise ValueError(f"unknown arm {self.arm!r}; {did_you_mean(self.arm, get_args(Arm))}")
        if self.views is not None and self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}; None gives every epoch a view of its own")
        _ = self.fit  # which checks the rest

    @property
    def fit(self) -> Fit:
        """The same for the engine."""
        taken = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "milestones", "evaluate_every")
        return Fit(**{name: getattr(self, name) for name in taken}, drop_last=False)

    @property
    def shown(self) -> str:
        """What the network is shown: `plain` images, `fresh` views, or e.g. `8-views`."""
        if self.augment == "none":
            return "plain"
        return "fresh" if self.views is None else f"{self.views}-views"


@dataclass(frozen=True)
class Probed:
    """What a probe came to. Percentages; `history` has a row for every epoch that was evaluated.

    `drift` is how far the running means of batch norm moved, in their standard deviations and averaged over channels;
    None in the frozen arm.
    """

    head: nn.Linear = field(repr=False)
    top1: float
    best_top1: float
    seconds: float
    width: int
    drift: float | None
    history: list[dict[str, Any]] = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        names = ("top1", "best_top1", "seconds", "width", "drift", "history")
        return {name: getattr(self, name) for name in names}


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
    """Train a new linear layer on the embedding of `network`, which is left bit-identical.

    `network` is any module with logits `[B, K']` that an `nn.Linear` makes; it moves to the device of `train`.
    `preprocess` defaults to the mean and standard deviation of `train`. The layer, the order of the images and, where
    `views` is None, their augmentation are functions of `seed`. `folder` is where the drifting arm keeps a checkpoint;
    with one in it, it goes on from there.

    Raises:
        ValueError: a network without an embedding `[B, D]`, images that it cannot run on, labels of `valid` that
            `train` does not have, a classifier that diverges.
    """
    protocol = protocol or Protocol()
    ready = replace(preprocess or Preprocess.of(train), label_map=None)
    if tuple(train.classes) != tuple(valid.classes):
        raise ValueError(f"{train.name}: training and validation images have different classes")
    started, device = time.perf_counter(), train.images.device
    loader = _loader(train, protocol, seed)
    arguments = (network, train, valid, protocol, loader, ready, precision or Precision(), seed)
    report = begin or (lambda name, steps: lambda progress: None)
    if protocol.arm == "frozen":
        head, history = _frozen(*arguments, report(label, protocol.epochs * loader.steps))
        drift = None
    else:
        head, history, drift = _drifting(*arguments, report, label, folder)
    found = [row["top1"] for row in history if "top1" in row]
    head = head.to(device).requires_grad_(False)
    return Probed(head, found[-1], max(found), time.perf_counter() - started, head.in_features, drift, history)


def _loader(train: Images, protocol: Protocol, seed: int) -> Resident:
    views = 1 if protocol.augment == "none" else protocol.views
    return Resident(
        train,
        protocol.batch_size,
        augment=protocol.augment,
        seed=hash_int(protocol.data_seed, seed),
        views=views,
        view_seed=None if views is None else protocol.data_seed,
        device=train.images.device,
        drop_last=False,
    )


def new_head(width: int, classes: int, seed: int) -> nn.Linear:
    """A linear layer with weights from N(0, 0.01²) and biases of 0, the same on every device."""
    head = nn.Linear(width, classes)
    generator = torch.Generator().manual_seed(hash_int(seed, "head"))
    nn.init.normal_(head.weight, 0.0, 0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


class Features:
    """The embeddings of all images of a split, view by view: `[N, D + 1]`, float32, the last column being 1.

    A view that will be needed again (`keep`) is computed once.
    """

    def __init__(self, speaker: Network, images: Images, keep: bool):
        self.speaker, self.images, self.keep = speaker, images, keep
        self.stored: dict[int, Tensor] = {}

    def view(self, number: int, augment: str, seed: int) -> Tensor:
        """The embedding of view `number`, which `augment` and `seed` make as in `Resident`."""
        found = self.stored.get(number)
        if found is None:
            pixels = self.images.images
            rows = torch.arange(len(pixels), device=pixels.device).split(ROWS)
            parts = [self._embed(augmented(pixels, part, augment, seed, number), part) for part in rows]
            found = torch.cat(parts)
            if self.keep:
                self.stored[number] = found
        return found

    def _embed(self, pixels: Tensor, rows: Tensor) -> Tensor:
        outputs = self.speaker(Classify(), Batch({MAIN: View(pixels, rows)}), MAIN, ("embedding",))
        embedding = _checked(outputs.taps["embedding"], self.speaker.module).float()
        return torch.cat([embedding, embedding.new_ones(len(embedding), 1)], dim=1)


def _checked(embedding: Tensor, network: nn.Module) -> Tensor:
    if embedding.ndim != 2:
        raise ValueError(
            f"the embedding of {type(network).__name__} has shape {list(embedding.shape)}, expected [B, D]: its "
            "classifier reads something else than one vector per image"
        )
    return embedding


def _frozen(
    network: nn.Module,
    train: Images,
    valid: Images,
    protocol: Protocol,
    loader: Resident,
    preprocess: Preprocess,
    precision: Precision,
    seed: int,
    on_step: Callable[[Progress], None],
) -> tuple[nn.Linear, list[dict[str, Any]]]:
    batch = first(train, LOOKED_AT, train.images.device)
    speaker = source(network, batch, trained=False, preprocess=preprocess, precision=precision)
    try:
        features = Features(speaker, train, keep=loader.views is not None)
        held = Features(speaker, valid, keep=False).view(0, "none", 0)
        head = new_head(held.shape[1] - 1, len(train.classes), seed).to(held.device)
        weight = torch.cat([head.weight, head.bias[:, None]], dim=1).detach()
        history = descend(weight, features, loader, (held, valid.labels), protocol, on_step)
    finally:
        speaker.close()
    head.weight.data, head.bias.data = weight[:, :-1].clone(), weight[:, -1].clone()
    return head, history


@torch.no_grad()
def descend(
    weight: Tensor,
    features: Features,
    loader: Resident,
    held: tuple[Tensor, Tensor],
    protocol: Protocol,
    on_step: Callable[[Progress], None],
) -> list[dict[str, Any]]:
    r"""Softmax regression by SGD, in place on `weight` `[K, D + 1]`, its gradient $(p - y)^\top e / B$ written out.

    The steps are those of `torch.optim.SGD` on the mean cross-entropy. A step is four small products here; the engine's
    would take ten times as long, nearly all of it bookkeeping. Nothing waits for the device before the end.
    """
    labels, velocity = loader.images.labels, torch.zeros_like(weight)
    minus = weight.new_full((loader.batch_size, 1), -1.0)
    schedule, total, step = Milestones(protocol.milestones), protocol.epochs * loader.steps, 0
    measured: list[tuple[int, float, Tensor]] = []
    for epoch in range(protocol.epochs):
        number = epoch if loader.views is None else epoch % loader.views
        order = loader.order(epoch)
        seen = features.view(number, loader.augment, loader.view_seed).index_select(0, order)
        answers = labels.index_select(0, order)[:, None]
        rate = 0.0
        for rows, right in zip(seen.split(loader.batch_size), answers.split(loader.batch_size), strict=True):
            rate = protocol.lr * schedule(Progress(step, epoch, total))
            residual = torch.softmax(rows @ weight.mT, 1).scatter_add_(1, right, minus[: len(rows)])
            velocity.mul_(protocol.momentum).add_(weight, alpha=protocol.weight_decay)
            velocity.addmm_(residual.mT, rows, alpha=1 / len(rows))
            weight.sub_(velocity, alpha=rate)
            step += 1
        if (epoch + 1) % protocol.evaluate_every == 0 or epoch + 1 == protocol.epochs:
            logits = held[0] @ weight.mT
            right = (logits.argmax(1) == held[1]).double().mean()
            measured.append((epoch + 1, rate, torch.stack([100 * right, F.cross_entropy(logits, held[1]).double()])))
        on_step(Progress(step, epoch + 1, total))
    values = torch.stack([value for *_, value in measured]).tolist()
    if not bool(weight.isfinite().all()):
        raise ValueError(f"the probe became NaN or infinite; lower its learning rate ({protocol.lr})")
    return [
        {"epoch": epoch, "lr": rate, "top1": top1, "valid_loss": loss}
        for (epoch, rate, _), (top1, loss) in zip(measured, values, strict=True)
    ]


class Headed(nn.Module):
    """A network that answers with a new linear layer on its embedding, found at a module path; only that is trained.

    In training mode the network's batch norm runs as in training: that is the drifting arm.
    """

    def __init__(self, body: nn.Module, path: str, head: nn.Linear):
        super().__init__()
        self.body, self.head = body.requires_grad_(False), head
        self._embedding = Taps(body, {"embedding": path}, needs_gradient=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._embedding(lambda: self.body(x)).taps["embedding"])


def _drifting(
    network: nn.Module,
    train: Images,
    valid: Images,
    protocol: Protocol,
    loader: Resident,
    preprocess: Preprocess,
    precision: Precision,
    seed: int,
    begin: Begin,
    label: str,
    folder: Path | None,
) -> tuple[nn.Linear, list[dict[str, Any]], float]:
    device = train.images.device
    batch, body = first(train, LOOKED_AT, device), copy.deepcopy(network)
    speaker = source(body, batch, trained=False, preprocess=preprocess, precision=precision)
    embedding = speaker(Classify(), batch, MAIN, ("embedding",)).taps["embedding"]
    width, path = _checked(embedding, network).shape[1], speaker.names["embedding"]
    speaker.close()
    if not _means(network):
        warnings.warn(
            f"{type(network).__name__} has no batch-norm statistics that could drift: this arm differs from the frozen "
            "one in its dropout at most",
            stacklevel=3,
        )
    headed = Headed(body, path, new_head(width, len(train.classes), seed))
    info = DataInfo(loader.samples, loader.batch_size, len(train.classes), train.labels)
    examples = Examples(loader, info, batch, lambda: batches(valid, ROWS, device))
    engine, done = train_stages(
        headed,
        None,
        parse("student"),
        lambda fit: examples,
        protocol.fit,
        begin=begin,
        label=label,
        resume=True,
        folder=folder,
        seed=seed,
        preprocess=preprocess,
        precision=precision,
    )
    moved = [
        ((after - before).abs() / (spread + eps).sqrt()).mean()
        for (before, spread, eps), (after, *_) in zip(_means(network), _means(engine.student), strict=True)
    ]
    return headed.head, done.history, float(torch.stack(moved).mean()) if moved else 0.0


def _means(network: nn.Module) -> list[tuple[Tensor, Tensor, float]]:
    """Running mean, variance and epsilon of every batch norm that keeps them, on the host."""
    kept = [part for part in network.modules() if getattr(part, "running_mean", None) is not None]
    return [(part.running_mean.cpu(), part.running_var.cpu(), part.eps) for part in kept]  # ty: ignore


def settings(protocol: Protocol) -> dict[str, Any]:
    """The protocol as it comes back from a JSON file."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(protocol).items()}
