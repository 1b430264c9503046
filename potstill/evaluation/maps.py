"""t-SNE maps of what the networks of a run answer, drawn once and kept beside them in `tsne.safetensors`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from potstill.console import Talk
from potstill.evaluation.answers import Answers, Seen, read_arrays, write_arrays
from potstill.evaluation.behaviour import chosen, tsne

MAPS = "tsne.safetensors"
FIRST = 10
"""With more classes than that, another map shows only so many: the first ones."""
PER_CLASS, FEWEST, MOST, TOGETHER = 30, 250, 2_000, 24_000
"""Points: for each class, of a map at least and at most, and of all maps of a run."""
SECONDS = 0.0035
"""Measured for each point of a map, on one core (250 to 2,000 points)."""


@dataclass(frozen=True)
class Map:
    """Places `xy` `[n, 2]` of the samples `index` `[n]`."""

    index: np.ndarray
    xy: np.ndarray


def kinds(seen: Seen) -> tuple[str, ...]:
    """What is mapped of each network: `logits`, `embedding`, and `first`, the logits of the first classes only.

    Points are coloured by class, so nothing is mapped of data without labels.
    """
    if not seen.classes:
        return ()
    return ("logits", "embedding", "first") if len(seen.classes) > FIRST else ("logits", "embedding")


def read(seen: Seen, name: str) -> dict[str, Map]:
    """The maps of one network by kind; none where they were not drawn. Raises ValueError for a file that is broken."""
    path = seen.places[name] / MAPS
    if not path.is_file():
        return {}
    found, _ = read_arrays(path)
    maps = {kind: Map(found[f"{kind}.index"], found[kind]) for kind in kinds(seen) if kind in found}
    for kind, drawn in maps.items():
        inside = not len(drawn.index) or 0 <= drawn.index.min() <= drawn.index.max() < len(seen.labels)
        if drawn.xy.shape != (len(drawn.index), 2) or not inside:
            raise ValueError(f"{path}: {kind} is no map of {len(seen.labels)} samples")
    return maps


def missing(seen: Seen) -> list[str]:
    """Networks whose maps are still to be drawn."""
    return [name for name, place in seen.places.items() if seen.classes and not (place / MAPS).exists()]


def cost(seen: Seen) -> float:
    """About how many seconds it takes to draw those that are missing."""
    return sum(SECONDS * len(index) for _ in missing(seen) for index in _samples(seen).values())


def draw(seen: Seen, talk: Talk) -> None:
    """Draw the maps that are missing."""
    names, samples = missing(seen), _samples(seen)
    if not names:
        return
    with talk.counted("t-SNE", len(names) * len(samples)) as advance:
        for name in names:
            arrays: dict[str, np.ndarray] = {}
            for kind, xy in _maps(seen.load(name), samples):
                arrays |= {} if xy is None else {kind: xy, f"{kind}.index": samples[kind]}
                advance()
            write_arrays(seen.places[name] / MAPS, arrays)


def _maps(answers: Answers, samples: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray | None]]:
    for kind, index in samples.items():
        values = answers.embedding if kind == "embedding" else answers.logits
        usable = values is not None and np.isfinite(values[index]).all()
        yield kind, tsne(values[index]) if usable else None


def _samples(seen: Seen) -> dict[str, np.ndarray]:
    """By kind, the indices of the samples that are mapped: the same for every network."""
    count = max(1, len(seen.places) * len(kinds(seen)))
    most = min(MOST, max(FEWEST, TOGETHER // count))
    every = chosen(len(seen.labels), min(most, max(FEWEST, PER_CLASS * len(seen.classes))))
    few = np.flatnonzero(seen.labels < FIRST)
    few = few[chosen(len(few), min(most, PER_CLASS * FIRST))]
    found: dict[str, np.ndarray] = {"logits": every, "embedding": every, "first": few}
    return {kind: found[kind] for kind in kinds(seen)}
