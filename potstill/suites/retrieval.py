"""Retrieval: training images are the database, validation images the queries, compared in the features of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from potstill.data import Split, batches
from potstill.evaluation.retrieval import nearest_centroid, retrieval
from potstill.functional import at_least_float32
from potstill.sources import Network
from potstill.suites.suite import Seen, Suite
from potstill.tasks.classify import Classify
from potstill.types import MAIN

ROWS = 512
"""Images whose features are computed at once."""


@dataclass(frozen=True)
class RetrievalSuite(Suite):
    """How well nearest neighbours in a layer's features are of the query's class."""

    layer: str = "embedding"
    """The tap to compare in: embedding (what the classifier reads), stage1 …, or a module path."""
    top: int = 100
    """Precision among the first so many."""
    title: ClassVar[str] = "retrieval of training images, queries from the validation images, in percent"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")

    def columns(self) -> Mapping[str, str]:
        top = f"top-{self.top}"
        return {
            "map_e": "mAP (e)",
            "map_c": "mAP (c)",
            "top_e": f"{top} (e)",
            "top_c": f"{top} (c)",
            "centroid": "centroid",
            "map_e_released": "mAP (e)*",
            "map_c_released": "mAP (c)*",
            "top_e_released": f"{top} (e)*",
            "top_c_released": f"{top} (c)*",
        }

    def better(self) -> Mapping[str, Literal["higher"]]:
        return dict.fromkeys(self.columns(), "higher")

    def notes(self) -> tuple[str, ...]:
        return (
            f"Features: {self.layer}. (e) Euclidean, (c) cosine; mAP: 11-point interpolated.",
            "centroid: share of queries whose nearest class mean is their own; no trained classifier is asked.",
            "* by the released code, whose interpolation ends at rank 128; published numbers are by that.",
        )

    def measure(self, network: Network, seen: Seen) -> Mapping[str, float | None]:
        database, labels = self._features(network, seen.train, seen.device)
        queries, answers = self._features(network, seen.valid, seen.device)
        found: dict[str, float | None] = {"centroid": nearest_centroid(database, labels, queries, answers)}
        for mark, metric in (("e", "euclidean"), ("c", "cosine")):
            one = retrieval(database, labels, queries, answers, metric=metric, top=self.top)
            found |= {f"map_{mark}": one.map, f"top_{mark}": one.top}
            found |= {f"map_{mark}_released": one.map_released, f"top_{mark}_released": one.top_released}
        return found

    def _features(self, network: Network, images: Split, device: torch.device) -> tuple[Tensor, Tensor]:
        """The layer's flattened features of a split as it is, `[N, D]`, and its labels."""
        found, labels = [], []
        with network.evaluating():
            for batch in batches(images, ROWS, device):
                tap = network(Classify(), batch, MAIN, (self.layer,)).taps[self.layer]
                found.append(at_least_float32(tap).flatten(1))
                labels.append(batch.main.label)
        return torch.cat(found), torch.cat(labels)
