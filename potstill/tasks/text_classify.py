"""Sentences, or pairs of them, with a class or a score each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.functional import at_least_float32
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Answer, Batch, LazyLogits, LiveSource


@dataclass(frozen=True)
class TextScores:
    """What a network says about a whole data set.

    `scores` holds `accuracy` of classes, or `pearson` and `spearman` of scores, each times 100 as in GLUE, and the mean
    `loss` (cross-entropy, or squared error); with a reference `agreement` in percent, where there are classes. Without
    labels only the agreement. `predictions` `[N]` are the classes, or the scores.
    """

    predictions: Tensor
    scores: dict[str, float] = field(default_factory=dict)
    finite: bool = True

    @property
    def measured(self) -> dict[str, float]:
        """What a row of `metrics.jsonl` says of it."""
        return {f"valid_{name}": value for name, value in self.scores.items()}

    @property
    def says(self) -> str:
        """The result in a line."""
        shown = [f"{name} {value:.2f}" for name, value in self.scores.items() if name != "loss"]
        return ", ".join(shown) or "no labels"


class TextClassify(Classify):
    """Tokenised text with one label each: int64 for classes, floating point for scores, or none.

    A view's input holds `input_ids` and `attention_mask` `[B, L]`, and what else the network takes by name
    (`token_type_ids`, `position_ids`, `inputs_embeds`). The network is a
    `transformers.AutoModelForSequenceClassification`, or any module that takes these keywords and answers with logits
    `[B, K]` or with something that has `.logits`.
    """

    def forward(self, model: nn.Module, batch: Batch, view: str) -> Answer:
        return logits_of(model(**accepted(model, batch.views[view].input)))

    def evaluate(self, source: LiveSource, loader: Iterable[Batch], reference: Tensor | None = None) -> TextScores:
        """Run a source over a loader. Waits for the device once, at the end."""
        answers, labels = [], []
        with source.evaluating():
            for batch in loader:
                answers.append(at_least_float32(source(self, batch, MAIN, ()).dense()))
                labels.append(batch.main.label)
        answer = torch.cat(answers)
        finite = bool(answer.isfinite().all())
        if answer.shape[1] == 1:
            return _of_scores(answer[:, 0], labels, finite)
        return _of_classes(answer, labels, finite, reference)


def accepted(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the network takes of an input. Networks that share a tokenizer need not share `token_type_ids`.

    Raises:
        ValueError: an input that is no mapping with `input_ids` or `inputs_embeds`.
    """
    if not isinstance(given, Mapping) or not {"input_ids", "inputs_embeds"} & given.keys():
        found = list(given) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"expected tokenised text, a mapping with input_ids and attention_mask, got {found}")
    taken = taken_by(getattr(model, "forward", model))
    found = {name: value for name, value in given.items() if taken is None or name in taken}
    if (mask := found.get("attention_mask")) is not None and mask.dtype == torch.bool:
        found["attention_mask"] = mask.long()  # some networks compute 1 - mask
    return found


def taken_by(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Names of its parameters; None: any."""
    parameters = inspect.signature(forward).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if anything and "input_ids" not in named else named


def logits_of(said: Any) -> Answer:
    """The logits in a network's answer. Raises ValueError where there are none."""
    found = getattr(said, "logits", said)
    if not isinstance(found, Tensor | LazyLogits):
        raise ValueError(
            f"the network answers with a {type(said).__name__} without logits; take one with a classifier "
            "(AutoModelForSequenceClassification)"
        )
    return found


def _of_classes(logits: Tensor, labels: list[Tensor | None], finite: bool, reference: Tensor | None) -> TextScores:
    predictions, scores = logits.argmax(1), {}
    if (label := _joined(labels)) is not None:
        scores["accuracy"] = 100 * (predictions == label).double().mean().item()
        scores["loss"] = F.cross_entropy(logits, label).item()
    if reference is not None:
        scores["agreement"] = 100 * (predictions == reference).double().mean().item()
    return TextScores(predictions, scores, finite)


def _of_scores(answer: Tensor, labels: list[Tensor | None], finite: bool) -> TextScores:
    label = _joined(labels)
    if label is None or not finite:
        return TextScores(answer, {}, finite)
    told, right = answer.double().cpu().numpy(), label.double().cpu().numpy()
    # A network that says the same of all has no correlation with anything: 0, as if it were unrelated.
    vary = len(told) > 1 and told.std() > 0 and right.std() > 0
    from scipy.stats import pearsonr, spearmanr  # slow to import, and scores are rare

    pearson, spearman = (measure(told, right).statistic if vary else 0.0 for measure in (pearsonr, spearmanr))
    loss = F.mse_loss(answer.double(), label.double()).item()
    return TextScores(answer, {"pearson": 100 * float(pearson), "spearman": 100 * float(spearman), "loss": loss})


def _joined(labels: list[Tensor | None]) -> Tensor | None:
    found = [label for label in labels if label is not None]
    return torch.cat(found) if found else None
