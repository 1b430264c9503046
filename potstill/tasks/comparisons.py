"""Examples of several images: what is said about some of them, compared with what is said about others.

Letters in shapes: B comparisons of a batch, G images of a comparison, P of them on its first side, M comparisons of the
run, N training samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.data import Resident, Streamed
from potstill.data.loaders import shown
from potstill.errors import did_you_mean
from potstill.functional import at_least_float32
from potstill.hashing import hash_index, hash_int, uniform_int
from potstill.ranks import rank
from potstill.tasks.classify import Classify
from potstill.types import Batch, Outputs, Progress, Source, SourceOutputs, View

OPERATORS = ("difference", "sum", "mixup")
MOST = 100_000
"""Comparisons of a run, at most (`max_rel_samples` of the released code)."""
ROOM = 5
"""Times as many comparisons as are wanted must be possible for them to be drawn one by one."""
SIDES = ("first", "second")


def possible(samples: int, group: int) -> int:
    """How many ordered pairs of disjoint sets, of P = ⌈G/2⌉ and ⌊G/2⌋ samples, there are.

    >>> possible(4, 2), possible(4, 3)
    (12, 12)
    """
    second = group // 2
    first = group - second
    return math.comb(samples, first) * math.comb(samples - first, second)


def drawn(samples: int, group: int, seed: int, most: int = MOST) -> Int64[Tensor, "M G"]:
    """Distinct comparisons, at most so many, each a row of distinct samples: those of its first side, then the others.

    All that are possible where these are no more than `most`. Which ones is a function of the arguments; they are in no
    particular order.

    Raises:
        ValueError: a group of other than 2 or 3, or fewer samples than that.

    >>> drawn(3, 2, seed=0).shape
    torch.Size([6, 2])
    """
    if group not in (2, 3):
        raise ValueError(f"a comparison is of 2 images (1 with 1) or of 3 (2 with 1), got group={group}")
    total = possible(samples, group)
    if total < 1:
        raise ValueError(f"a comparison needs {group} different images, and there are {samples} training images")
    number = torch.arange(total) if total < ROOM * most else _distinct(total, most, seed)
    if len(number) > most:
        number = number[torch.sort(hash_index(number, seed, "chosen"), stable=True).indices[:most]]
    return _numbered(number, samples, group)


def _distinct(total: int, most: int, seed: int) -> Tensor:
    """At least `most` different numbers below `total`, evenly drawn."""
    draws = most
    while True:
        draws *= 2
        number = uniform_int(torch.arange(draws), total, seed, "comparison").unique()
        if len(number) >= most:
            return number


def _numbered(number: Tensor, samples: int, group: int) -> Int64[Tensor, "M G"]:
    """The comparison of each number in [0, possible): every comparison has one number."""
    if group == 2:
        first, rest = number // (samples - 1), number % (samples - 1)
        return torch.stack([first, rest + (rest >= first)], 1)
    pair, rest = number // (samples - 2), number % (samples - 2)
    lower = torch.arange(samples - 1)
    begins = lower * samples - lower * (lower + 1) // 2  # the pairs (i, j > i) in order: where those of each i begin
    one = torch.searchsorted(begins, pair, right=True) - 1
    other = pair - begins[one] + one + 1
    rest = rest + (rest >= one)
    return torch.stack([one, other, rest + (rest >= other)], 1)


class Comparisons(Classify):
    r"""Beside the images of a batch, as many comparisons of training images, each of two sides, $A$ and $B$:

    $$\Delta = w_A \, \mathrm{mean}_{A} \, z + w_B \, \mathrm{mean}_{B} \, z, \qquad
    w = (1, -1), \; (\tfrac12, \tfrac12) \text{ or } (\lambda, 1 - \lambda), \; \lambda \sim Beta(1, 1)$$

    for the operators difference, sum and mixup ($\lambda$ is drawn once a step).

    The sides are the views `first` (P rows for each comparison) and `second`, which a network sees one after the
    other, so that the student's batch-norm statistics are those of one side, as in CKD's released code. What `combine`
    makes of them is the view `comparison`: logits and taps of every source alike, and of the labels, as one-hot rows,
    the extra `difference` `[B, K]`.

    The run's comparisons are drawn once; a batch takes the next of them, and when all were taken they come again in
    another order. A sample is augmented anew every time it is shown, or with `data.views` as the epoch shows it. All of
    it is a function of the loader's seed and the step.

    Raises:
        ValueError: an unknown operator; a loader that cannot show the samples that are asked for, or too few of them.
    """

    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {"comparison": SIDES}

    def __init__(self, loader: object, classes: int, group: int = 2, operator: str = "difference", most: int = MOST):
        if operator not in OPERATORS:
            raise ValueError(f"unknown operator {operator!r}; {did_you_mean(operator, OPERATORS)}")
        if not isinstance(loader, Resident | Streamed):
            raise ValueError(
                "comparisons are of images that are chosen by their index, which this loader of your own does not "
                "show; give the data as potstill.data.Images"
            )
        self.loader, self.operator = loader, operator
        self.first = group - group // 2
        self.images = loader.images if isinstance(loader, Resident) else loader.stream
        self.augment = loader.augment if isinstance(loader, Resident) else loader.stream.pictures.augment
        self.labels = loader.images.labels if isinstance(loader, Resident) else loader.stream.labels.to(loader.device)
        self.seed = hash_int(loader.plan.seed, "comparisons")
        self.kinds = torch.arange(classes, device=self.labels.device)
        self.rows = drawn(loader.samples, group, self.seed, most).to(self.labels.device)
        self._order: tuple[int, Tensor] = -1, torch.empty(0)

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        rows = self._next(len(batch), progress)
        sides = rows[:, : self.first], rows[:, self.first :]
        weights = self._weights(progress)
        views, difference = dict(batch.views), torch.zeros((), device=rows.device)
        for place, (name, index, weight) in enumerate(zip(SIDES, sides, weights, strict=True)):
            flat = index.flatten()
            picture, number = self._shown(flat, 2 * progress.step + place, progress.epoch)
            label = self.labels.index_select(0, flat)
            views[name] = View(picture, flat, label, number=number)
            difference = difference + weight * (label.view(*index.shape, 1) == self.kinds).float().mean(1)
        shares = torch.stack([rows.new_full((len(rows),), weight, dtype=torch.float64) for weight in weights], 1)
        views["comparison"] = View(None, rows[:, 0], extras={"difference": difference, "weights": shares})
        return (Batch(views),)

    def combine(self, outputs: SourceOutputs, batch: Batch) -> SourceOutputs:
        weights = batch.views["comparison"].extras["weights"]
        return {
            source: {**views, "comparison": self._compared(views, weights)} if {*SIDES} <= views.keys() else views
            for source, views in outputs.items()
        }

    def _compared(self, views: Mapping[str, Outputs], weights: Tensor) -> Outputs:
        first, second = (views[side] for side in SIDES)

        def compared(one: Tensor, other: Tensor) -> Tensor:
            means = [at_least_float32(side).unflatten(0, (len(weights), -1)).mean(1) for side in (one, other)]
            shape = (-1, *[1] * (means[0].ndim - 1))
            return sum(w.to(mean.dtype).view(shape) * mean for w, mean in zip(weights.unbind(1), means, strict=True))

        taps = {name: compared(first.taps[name], second.taps[name]) for name in first.taps.keys() & second.taps.keys()}
        return Outputs(compared(first.dense(), second.dense()), taps)

    def _next(self, count: int, progress: Progress) -> Int64[Tensor, "B G"]:
        """This rank's share of the step's comparisons."""
        loader = self.loader
        shown = min(loader.samples, loader.steps * loader.batch_size)  # in an epoch
        step = progress.step - progress.epoch * loader.steps
        start = progress.epoch * shown + step * loader.batch_size + rank() * count
        found = []
        while count > 0:
            turn, place = divmod(start, len(self.rows))
            if self._order[0] != turn:
                number = torch.arange(len(self.rows), device=self.rows.device)
                order = torch.sort(hash_index(number, self.seed, turn, "turn"), stable=True).indices
                self._order = turn, order
            part = self._order[1][place : place + count]
            found.append(self.rows.index_select(0, part))
            start, count = start + len(part), count - len(part)
        return torch.cat(found)

    def _shown(self, index: Tensor, time: int, epoch: int) -> tuple[Tensor, int | None]:
        plan = self.loader.plan
        if plan.views is None:
            return shown(self.images, index, self.augment, self.seed, time), None
        number = plan.number(epoch)
        return shown(self.images, index, self.augment, plan.view_seed, number), number

    def _weights(self, progress: Progress) -> tuple[float, float]:
        if self.operator == "difference":
            return 1.0, -1.0
        own = 0.5
        if self.operator == "mixup":
            own = (hash_int(self.seed, "share", progress.step) >> 10) * 2.0**-53
        return own, 1 - own
