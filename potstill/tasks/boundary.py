"""Classification with a second view: images that are moved to the teacher's decision boundary.

Letters in shapes: B batch, S moved samples, K classes, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from potstill.data.preprocess import Preprocess
from potstill.functional import at_least_float32
from potstill.hashing import uniform
from potstill.ranks import gather
from potstill.schedules import Schedule, at
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, LiveSource, Progress, Source, View

VIEW = "boundary"
TINY = 1e-4
"""Added to the score gap, so that a step crosses the boundary where it would end on it (the authors' code)."""


@dataclass(frozen=True)
class Attack:
    """How images are moved: at most `size` of a batch, by at most `steps` steps of `step` times the score gap.

    Lengths and `bound` are in the units of the teacher's normalised input.
    """

    size: int = 32
    steps: int = 10
    step: float = 0.3
    bound: float = 2.5


class Boundary(Classify):
    """Adds the view `boundary`, of as many rows as `main`: moved images, the others as they are and masked out.

    Where `weight` is 0, no image is moved and all are masked out. The teacher is `source`, whatever a control makes of
    its answers later; its network must be live.

    Raises:
        ValueError: what stands in for the teacher has no network (a cache).
    """

    def __init__(self, source: Source, attack: Attack, weight: float | Schedule):
        inner = source
        while not isinstance(inner, Network) and (wrapped := getattr(inner, "source", None)) is not None:
            inner = wrapped
        if not isinstance(inner, Network):
            raise ValueError(
                "bss moves images along the teacher's gradient, and what stands in for that one (a cache) has no "
                "network; use the live teacher"
            )
        self.source, self.attack, self.weight = source, attack, weight
        # The same network, but gradients pass through it to its input; it stays in evaluation mode.
        self.live = Network(inner.module, trained=True, preprocess=inner.preprocess, precision=inner.precision)

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        main = batch.main
        if main.label is None or not isinstance(main.input, Tensor):
            raise ValueError("bss moves labelled images across a boundary, and the batch has no labels or no images")
        kind = self.live.precision.dtype
        pixels = Preprocess.identity()(main.input, kind) if main.input.dtype == torch.uint8 else main.input
        moved, chosen = pixels, torch.zeros_like(main.label, dtype=torch.bool)
        if at(self.weight, progress) > 0:
            moved, chosen = self._moved(batch, pixels, cast(LiveSource, sources["student"]), progress, seed)
        mask = chosen if main.mask is None else chosen & main.mask
        yield batch.with_view(VIEW, replace(main, input=moved, mask=mask, number=None))

    def _moved(
        self, batch: Batch, pixels: Tensor, student: LiveSource, progress: Progress, seed: int
    ) -> tuple[Tensor, Tensor]:
        main = batch.main
        assert main.label is not None
        with torch.no_grad():
            theirs = _probabilities(self.source(self, batch, MAIN, ()).dense())
        with student.evaluating():
            ours = _probabilities(student(self, batch, MAIN, ()).dense())
        score = hardness(theirs, ours, main.label)
        everyone = gather(score)
        chosen = (score >= 0) & (score >= everyone.topk(min(self.attack.size, len(everyone))).values[-1])
        rows = torch.where(chosen, score, -1).topk(min(self.attack.size, len(score))).indices
        draw = uniform(main.index, seed, "bss", progress.step)
        target = drawn(theirs, main.label, draw)
        chosen = chosen & (target != main.label)
        if _readable(rows):  # elsewhere the shape is fixed, and those that stay are computed too
            rows = rows[chosen[rows]]
        wanted = chosen[rows]
        near = self.crossed(pixels[rows], main.label[rows], target[rows], main.index[rows], wanted)
        kept = torch.zeros_like(chosen).index_copy(0, rows, wanted)
        return pixels.index_copy(0, rows, near), kept

    def crossed(
        self,
        pixels: Float[Tensor, "S C H W"],
        label: Int64[Tensor, " S"],
        target: Int64[Tensor, " S"],
        index: Int64[Tensor, " S"],
        wanted: Bool[Tensor, " S"],
    ) -> Float[Tensor, "S C H W"]:
        """Images moved towards the teacher's boundary to `target`, each until its answer flips; unwanted ones stay."""
        mean, std = self._units(pixels)
        x = (pixels - mean) / std
        moved = torch.zeros_like(wanted)
        for _ in range(self.attack.steps if len(x) else 0):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                view = View(x * std + mean, index, label)
                logits = at_least_float32(self.live(self, Batch({MAIN: view}), MAIN, ()).dense())
                gap = _pick(logits, label) - _pick(logits, target)
            (gradient,) = torch.autograd.grad(-gap.sum(), x)
            active = wanted & (logits.argmax(1) == label)
            if _readable(active) and not active.any():
                break
            length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
            along = self.attack.step * (gap.detach() + TINY).to(x.dtype) / length
            further = (x.detach() + along[:, None, None, None] * gradient).clamp(-self.attack.bound, self.attack.bound)
            x = torch.where(active[:, None, None, None], further, x.detach())
            moved = moved | active
        # What did not move is not sent through the units and back, so that it stays bit for bit.
        return torch.where(moved[:, None, None, None], x.detach() * std + mean, pixels)

    def _units(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation that the teacher normalises with, per channel."""
        found = self.live.preprocess
        mean, std = (None, None) if found is None else (found.mean, found.std)
        shape = (-1, 1, 1)
        return (
            pixels.new_tensor(mean or (0.0,)).view(shape),
            pixels.new_tensor(std or (1.0,)).view(shape),
        )


def hardness(
    teacher: Float[Tensor, "B K"], student: Float[Tensor, "B K"], label: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    r"""$\sum_{k \neq y} (p_t^k - p_s^k)^2$ of probabilities where both nets are right, -1 elsewhere."""
    right = (teacher.argmax(1) == label) & (student.argmax(1) == label)
    difference = (teacher - student).square()
    return torch.where(right, difference.sum(1) - _pick(difference, label), -1.0)


def drawn(
    probabilities: Float[Tensor, "B K"], label: Int64[Tensor, " B"], draw: Float[Tensor, " B"]
) -> Int64[Tensor, " B"]:
    """A class other than the label, in proportion to `probabilities`, for numbers `draw` in [0, 1).

    The label itself where the others have no mass at all.
    """
    others = probabilities.double().scatter(1, label[:, None], 0.0)
    reached = others.cumsum(1)
    found = (reached <= draw[:, None] * reached[:, -1:]).sum(1)
    return torch.where(reached[:, -1] > 0, found.clamp(max=others.shape[1] - 1), label)


def _readable(value: Tensor) -> bool:
    """Its values can be asked for without waiting for a device, and are not those of a trace."""
    return value.device.type == "cpu" and type(value) is Tensor


def _probabilities(logits: Tensor) -> Tensor:
    return at_least_float32(logits).softmax(1)


def _pick(rows: Tensor, column: Tensor) -> Tensor:
    return rows.gather(1, column[:, None])[:, 0]
