"""What the networks of a run answer on its validation data, as files: `labels.safetensors` once, and beside each
network `outputs.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from potstill.checkpoint import write_beside

LABELS, OUTPUTS, TEACHER = "labels.safetensors", "outputs.safetensors", "teacher"
LARGE = 2**22
"""Numbers in a tensor from which on it is stored as float16."""


@dataclass(frozen=True)
class Answers:
    """Of one network: `logits` `[N, K]`, and `embedding` `[N, D]` where it has one, both float32."""

    logits: np.ndarray
    embedding: np.ndarray | None = None

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.logits).all())


@dataclass(frozen=True)
class Seen:
    """The labels `[N]` of the validation data, its classes, and where whose answers lie (`places`, by method).

    Data without labels has no classes, and every label is -1.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    places: Mapping[str, Path] = field(default_factory=dict)

    def load(self, name: str) -> Answers:
        """Raises ValueError for a file that is broken or does not fit the labels."""
        path = self.places[name] / OUTPUTS
        found, _ = read_arrays(path)
        logits, embedding = found.get("logits"), found.get("embedding")
        classes = len(self.classes) or (0 if logits is None else logits.shape[-1])
        expected = [len(self.labels), classes]
        if logits is None or list(logits.shape) != expected:
            shape = "none" if logits is None else list(logits.shape)
            raise ValueError(f"{path}: logits of shape {shape}, expected {expected} as {LABELS} says")
        if embedding is not None and (embedding.ndim != 2 or len(embedding) != len(logits)):
            raise ValueError(f"{path}: embedding of shape {list(embedding.shape)}, expected [{len(logits)}, D]")
        return Answers(logits.astype(np.float32), None if embedding is None else embedding.astype(np.float32))


def read(run: Path, folders: Mapping[str, Sequence[Path]]) -> Seen | None:
    """What lies in a run's folder; None where it has no labels.

    `folders` are those of the cells of each method; the first that has outputs speaks for it.
    """
    if not (run / LABELS).is_file():
        return None
    found, about = read_arrays(run / LABELS)
    classes = json.loads(about.get("classes", "null"))
    labels = found.get("label")
    if labels is None or not isinstance(classes, list) or labels.ndim != 1:
        raise ValueError(f"{run / LABELS}: expected labels and the names of the classes")
    if classes and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"{run / LABELS}: a label lies outside the {len(classes)} classes")
    wanted = {TEACHER: [run / TEACHER], **folders}
    places = {
        name: next((place for place in several if (place / OUTPUTS).is_file()), None)
        for name, several in wanted.items()
    }
    named = {name: place for name, place in places.items() if place is not None}
    return Seen(labels, tuple(str(name) for name in classes), named)


def write_labels(run: Path, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Without classes there are no labels: -1 for each sample."""
    labels = labels if len(classes) else np.full_like(labels, -1)
    write_arrays(run / LABELS, {"label": labels.astype(np.int64)}, {"classes": json.dumps(list(classes))})


def write_answers(folder: Path, answers: Answers) -> None:
    """As float32; large ones as float16, unless a value would not fit."""
    named = {"logits": answers.logits, "embedding": answers.embedding}
    write_arrays(folder / OUTPUTS, {name: _small(value) for name, value in named.items() if value is not None})


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a safetensors file, and what it says about itself. Raises ValueError when it is none."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from error


def write_arrays(path: Path, arrays: dict[str, np.ndarray], about: dict[str, Any] | None = None) -> None:
    ready = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    write_beside(path, lambda temporary: save_file(ready, temporary, about))


def _small(value: np.ndarray) -> np.ndarray:
    most = np.abs(value).max(initial=0.0)
    fits = value.size >= LARGE and (most < np.finfo(np.float16).max or not np.isfinite(most))
    return value.astype(np.float16 if fits else np.float32)
