"""Images that are made of two, for a teacher that is asked about the two as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from potstill.data.mixing import cutmix, mixup
from potstill.functional import log_probabilities
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, Outputs, Progress, Source, SourceOutputs, View

KINDS = {"mixup": mixup, "cutmix": cutmix}


class Mixes(Classify):
    r"""The view `mixed` is made of the images of the batch and of others of it, their `partner`s.

    The view `targets` is what a source says of the two unmixed: $\log(\lambda \, softmax(z) + (1 - \lambda) \,
    softmax(z'))$, logits `[B, K]` whose softmax is the mixture. So a cached teacher or one with a budget can speak.
    `mixed` has the extras `other` (the partner's label) and `share` ($\lambda$). One $\lambda$ a batch from
    Beta(alpha, alpha), hashed from (seed, step).

    Raises:
        ValueError: inputs that are no images, or an `alpha` that is not positive.
    """

    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {"targets": (MAIN, "partner")}

    def __init__(self, kind: Literal["mixup", "cutmix"], alpha: float = 1.0):
        self.kind, self.alpha = kind, alpha

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        main = batch.main
        assert main.label is not None, "images to mix have labels"
        mixed = KINDS[self.kind](main.input, main.index, seed, progress.step, self.kind, alpha=self.alpha)
        other = main.label[mixed.partner]
        partner = View(main.input[mixed.partner], main.index[mixed.partner], other, number=main.number)
        extras = {"other": other, "share": mixed.share}
        views = {
            "partner": partner,
            "mixed": View(mixed.input, main.index, main.label, extras=extras),
            "targets": View(None, main.index, main.label, extras=extras),
        }
        return (Batch({**batch.views, **views}),)

    def combine(self, outputs: SourceOutputs, batch: Batch) -> SourceOutputs:
        share = batch.views["targets"].extras["share"]
        return {
            source: {**views, "targets": _mixture(views, share)} if {MAIN, "partner"} <= views.keys() else views
            for source, views in outputs.items()
        }


def _mixture(views: Mapping[str, Outputs], share: Tensor) -> Outputs:
    own, other = (log_probabilities(views[name].dense()) for name in (MAIN, "partner"))
    share = share.to(own.dtype)[:, None]
    return Outputs(torch.logaddexp(own + share.log(), other + (1 - share).log()))
