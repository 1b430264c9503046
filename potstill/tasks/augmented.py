"""What a second view of a batch can be: its images mixed, cut out or changed by a learnt policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from potstill.data.autoaugment import POLICIES, autoaugment
from potstill.data.mixing import Mixed, cutmix, cutout, mixup
from potstill.errors import did_you_mean
from potstill.functional import log_probabilities
from potstill.tasks.classify import Classify
from potstill.tasks.second import Salts
from potstill.types import Batch, Source, View

AUGMENTED = "augmented"
"""Name of that view."""
KINDS = ("mixup", "cutmix", "cutout", "autoaugment")


@dataclass(frozen=True)
class Augmented:
    """The main view augmented once more.

    A mixed view keeps each row's own label and index; its extras are `partner_label`, the other image's label, and
    `share`, how much of the row is its own image, for losses on labels.

    - `mixup`: lambda ~ Beta(alpha, alpha), drawn once a batch; `alpha` 0.2 where it is left out.
    - `cutmix`: the same with one box for the batch; `alpha` 1.
    - `cutout`: one square hole for the batch, `side` pixels wide (a quarter of the image where it is left out),
      in the colour `fill`.
    - `autoaugment`: one pair of operations of the `policy` for the batch. It needs uint8 pixels.

    Raises:
        ValueError: an unknown kind or policy; when it is used, an input that is no batch of images.
    """

    kind: str = "cutmix"
    alpha: float | None = None
    side: int | None = None
    fill: tuple[float, ...] = (0.0,)
    policy: str = "cifar10"

    def __post_init__(self) -> None:
        for what, value, known in (("augmentation", self.kind, KINDS), ("policy", self.policy, POLICIES)):
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; {did_you_mean(value, known)}")

    def __call__(self, batch: Batch, sources: Mapping[str, Source], salts: Salts) -> View:
        view = batch.main
        if self.kind == "mixup":
            return _mixed(view, mixup(view.input, view.index, *salts, alpha=0.2 if self.alpha is None else self.alpha))
        if self.kind == "cutmix":
            return _mixed(view, cutmix(view.input, view.index, *salts, alpha=1.0 if self.alpha is None else self.alpha))
        if self.kind == "cutout":
            side = max(1, min(view.input.shape[-2:]) // 4) if self.side is None else self.side
            changed = cutout(view.input, view.index, *salts, side=side, fill=self.fill)
        else:
            changed = autoaugment(view.input, *salts, policy=self.policy)
        return replace(view, input=changed, number=None)


@dataclass(frozen=True)
class Picked:
    """Of CutMix images those that the teacher is least sure of: the largest entropy of its softmax.

    `pool` batches are mixed, each with a box and partners of its own; the mixed images are scored, and as many rows as
    a batch has are kept, those of largest entropy.

    With `as_released` it is what the authors' CutMixPick comes to: one batch is mixed, the *unmixed* images are scored,
    and the 64 rows of largest entropy are kept. Of a batch of 64 that is all of them, in the order of their entropy.

    Raises:
        ValueError: a `pool` below 1.
    """

    pool: int = 2
    as_released: bool = False
    teacher: str = "teacher"
    keep: int = 64
    """How many rows `as_released` keeps."""

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise ValueError(f"a pool holds at least 1 mixed batch, got pool={self.pool}")

    def __call__(self, batch: Batch, sources: Mapping[str, Source], salts: Salts) -> View:
        view = batch.main
        turns = range(1 if self.as_released else self.pool)
        mixed = [_mixed(view, cutmix(view.input, view.index, *salts, turn)) for turn in turns]
        pool = View(
            torch.cat([one.input for one in mixed]),
            torch.cat([one.index for one in mixed]),
            None if view.label is None else view.label.repeat(len(mixed)),
            None if view.mask is None else view.mask.repeat(len(mixed), *[1] * (view.mask.ndim - 1)),
            {name: torch.cat([one.extras[name] for one in mixed]) for name in mixed[0].extras},
        )
        scored = view if self.as_released else pool
        answer = sources[self.teacher](Classify(), batch.with_view("scored", scored), "scored", ())
        log_p = log_probabilities(answer.dense().detach())
        entropy = -(log_p.exp() * log_p).sum(1)
        count = min(len(view), self.keep) if self.as_released else len(view)
        return _rows(pool, entropy.argsort(stable=True)[-count:])


def _mixed(view: View, mixed: Mixed) -> View:
    extras = {**view.extras, "share": mixed.share}
    if view.label is not None:
        extras["partner_label"] = view.label[mixed.partner]
    return replace(view, input=mixed.input, extras=extras, number=None)


def _rows(view: View, rows: Tensor) -> View:
    """Some rows of a view, in this order."""
    return View(
        view.input[rows],
        view.index[rows],
        None if view.label is None else view.label[rows],
        None if view.mask is None else view.mask[rows],
        {name: value[rows] for name, value in view.extras.items()},
    )
