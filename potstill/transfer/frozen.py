"""The frozen arm: the network in evaluation mode, its embedding of each view computed once, softmax regression on that.

In evaluation mode the embedding is a function of the image alone, so it makes no difference in which batches it is
computed: what a step of the classifier sees is what it would see behind the network. Letters in shapes: N images,
D width of the embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from potstill.data import Images, augmented
from potstill.examples import source
from potstill.schedules import Milestones
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.transfer.protocol import Asked
from potstill.types import MAIN, Batch, Progress, View

ROWS = 512
"""Images whose embedding is computed at once."""


class Features:
    """The embeddings of all images of a split, view by view: `[N, D + 1]`, float32, the last column being 1.

    With `keep` a view is computed once, and stays on the device.
    """

    def __init__(self, asked: Asked, speaker: Network, images: Images, keep: bool):
        self.asked, self.speaker, self.images, self.keep = asked, speaker, images, keep
        self.stored: dict[int, Tensor] = {}

    def view(self, number: int, augment: str, seed: int) -> Tensor:
        """The embeddings of view `number`, which `augment` and `seed` make as in `Resident`."""
        found = self.stored.get(number)
        if found is None:
            pixels = self.images.images
            parts = torch.arange(len(pixels), device=pixels.device).split(ROWS)
            found = torch.cat([self._embed(augmented(pixels, part, augment, seed, number), part) for part in parts])
            if self.keep:
                self.stored[number] = found
        return found

    def _embed(self, pixels: Tensor, rows: Tensor) -> Tensor:
        outputs = self.speaker(Classify(), Batch({MAIN: View(pixels, rows)}), MAIN, ("embedding",))
        embedding = self.asked.checked(outputs.taps["embedding"]).float()
        return torch.cat([embedding, embedding.new_ones(len(embedding), 1)], dim=1)


def frozen(asked: Asked, on_step: Callable[[Progress], None]) -> tuple[nn.Linear, list[dict[str, Any]]]:
    """The new classifier, and a row of measurements for each epoch that was evaluated. The network stays as it is."""
    speaker = source(asked.network, asked.batch, trained=False, preprocess=asked.preprocess, precision=asked.precision)
    try:
        features = Features(asked, speaker, asked.train, keep=asked.loader.plan.views is not None)
        held = Features(asked, speaker, asked.valid, keep=False).view(0, "none", 0)
        head = asked.head(held.shape[1] - 1).requires_grad_(False)
        weight = torch.cat([head.weight, head.bias[:, None]], dim=1)
        history = descend(weight, features, asked, (held, asked.valid.labels), on_step)
    finally:
        speaker.close()
    head.weight.copy_(weight[:, :-1])
    head.bias.copy_(weight[:, -1])
    return head, history


@torch.no_grad()
def descend(
    weight: Tensor,
    features: Features,
    asked: Asked,
    held: tuple[Tensor, Tensor],
    on_step: Callable[[Progress], None],
) -> list[dict[str, Any]]:
    r"""Softmax regression by SGD, in place on `weight` `[K, D + 1]`, its gradient $(p - y)^\top e / B$ written out.

    The steps are those of `torch.optim.SGD` on the mean cross-entropy; `held` are embeddings and labels to evaluate on.
    A step is a handful of small products, ten times faster than one of the engine, which is made for networks. Nothing
    waits for the device before the end.
    """
    protocol, loader = asked.protocol, asked.loader
    labels, velocity = loader.images.labels, torch.zeros_like(weight)
    minus = weight.new_full((loader.batch_size, 1), -1.0)
    schedule, total, step, rate = Milestones(protocol.milestones), protocol.epochs * loader.steps, 0, 0.0
    rows: list[dict[str, Any]] = []
    measured: list[Tensor] = []
    for epoch in range(protocol.epochs):
        number, order = loader.plan.number(epoch), loader.order(epoch)
        seen = features.view(number, loader.augment, loader.plan.view_seed).index_select(0, order)
        answers = labels.index_select(0, order)[:, None]
        for part, right in zip(seen.split(loader.batch_size), answers.split(loader.batch_size), strict=True):
            rate = protocol.lr * schedule(Progress(step, epoch, total))
            residual = torch.softmax(part @ weight.mT, 1).scatter_add_(1, right, minus[: len(part)])
            velocity.mul_(protocol.momentum).add_(weight, alpha=protocol.weight_decay)
            velocity.addmm_(residual.mT, part, alpha=1 / len(part))
            weight.sub_(velocity, alpha=rate)
            step += 1
        if (epoch + 1) % protocol.evaluate_every == 0 or epoch + 1 == protocol.epochs:
            logits = held[0] @ weight.mT
            top1 = 100 * (logits.argmax(1) == held[1]).double().mean()
            measured.append(torch.stack([top1, F.cross_entropy(logits, held[1]).double()]))
            rows.append({"epoch": epoch + 1, "step": step, "lr": rate})
        on_step(Progress(step, epoch + 1, total))
    if not bool(weight.isfinite().all()):
        raise ValueError(f"the probe became NaN or infinite; lower its learning rate ({protocol.lr})")
    values = torch.stack(measured).tolist()
    return [row | {"top1": top1, "valid_loss": loss} for row, (top1, loss) in zip(rows, values, strict=True)]
