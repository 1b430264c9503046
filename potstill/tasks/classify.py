"""Classification: one view, logits, and the share of right answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.functional import at_least_float32
from potstill.types import MAIN, Batch, LiveSource, Progress, Source, SourceOutputs


@dataclass(frozen=True)
class Evaluation:
    """What a network says about a whole data set: `predictions` `[N]`, and percentages.

    `top1` is the share of right answers, `agreement` that of answers equal to the reference's (the teacher's). Without
    labels `top1` and `loss` are None.
    """

    predictions: Tensor
    top1: float | None
    loss: float | None
    finite: bool
    agreement: float | None = None

    @property
    def reached(self) -> dict[str, float | None]:
        """The result by its name: `top1`, or without labels `agreement`."""
        return {"agreement": self.agreement} if self.top1 is None else {"top1": self.top1}

    @property
    def measured(self) -> dict[str, float | None]:
        """What a row of `metrics.jsonl` says of it."""
        known = {} if self.top1 is None else {"top1": self.top1, "valid_loss": self.loss}
        return known if self.agreement is None else known | {"agreement": self.agreement}

    @property
    def says(self) -> str:
        """The result in a line: the accuracy, or without labels the agreement."""
        if self.top1 is not None:
            return f"{self.top1:.2f} %"
        return "no labels" if self.agreement is None else f"agrees with the teacher on {self.agreement:.2f} %"


class Classify:
    """Images (or anything a network takes whole) with one label each, or none."""

    combine_scope: Literal["unit", "batch"] = "unit"
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    steps_per_batch = 1

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        return (batch,)

    def forward(self, model: nn.Module, batch: Batch, view: str) -> Tensor:
        return model(batch.views[view].input)

    def combine(self, outputs: SourceOutputs, batch: Batch) -> SourceOutputs:
        return outputs

    def mask(self, batch: Batch, view: str) -> Tensor | None:
        return batch.views[view].mask

    def evaluate(self, source: LiveSource, loader: Iterable[Batch], reference: Tensor | None = None) -> Evaluation:
        """Run a source over a loader. Waits for the device once, at the end."""
        predictions, right, loss, finite = [], [], [], []
        with source.evaluating():
            for batch in loader:
                logits = at_least_float32(source(self, batch, MAIN, ()).dense())
                predictions.append(logits.argmax(1))
                if (label := batch.main.label) is not None:
                    right.append(predictions[-1] == label)
                    loss.append(F.cross_entropy(logits, label, reduction="none"))
                finite.append(logits.isfinite().all())
        answers = torch.cat(predictions)
        agreement = None if reference is None else 100 * (answers == reference).double().mean().item()
        return Evaluation(
            predictions=answers,
            top1=100 * torch.cat(right).double().mean().item() if right else None,
            loss=torch.cat(loss).double().mean().item() if loss else None,
            finite=bool(torch.stack(finite).all()),
            agreement=agreement,
        )
