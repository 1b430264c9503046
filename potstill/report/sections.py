"""The sections of a report that compare what teacher and students answer, from the files of `evaluation.answers`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from potstill.evaluation import behaviour as measured
from potstill.evaluation import maps
from potstill.evaluation.answers import TEACHER, Seen
from potstill.report import behaviour as drawn
from potstill.report import figures

FEW = 128
"""Samples of the correlation difference as first published: one test batch."""
OPEN = 6
"""Networks that a section shows at once; further ones unfold."""


@dataclass(frozen=True)
class Figure:
    """One chart: whose it is, what it shows of that one, and what its numbers are."""

    key: str
    name: str
    what: str
    chart: figures.Chart
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """Figures of one kind. `shape` is how the page lays them out: `wide`, or squares, two (`pair`), three (`many`) or
    four (`quarter`) in a row where there is room."""

    key: str
    title: str
    hint: str
    shape: str
    figures: list[Figure] = field(default_factory=list)

    @property
    def split(self) -> tuple[list[Figure], list[Figure]]:
        """Those of the first networks, and the others."""
        names = list(dict.fromkeys(figure.name for figure in self.figures))[:OPEN]
        first = [figure for figure in self.figures if figure.name in names]
        return first, [figure for figure in self.figures if figure.name not in names]


def sections(seen: Seen, summary: dict[str, Any]) -> list[Section]:
    """Everything that can be drawn: nothing for a network without outputs, or whose logits are not finite.

    Raises ValueError for files that do not fit each other.
    """
    methods = [row["method"] for row in summary["rows"]]
    present = [name for name in (TEACHER, *methods) if name in seen.places]
    logits = {name: found.logits for name in present if (found := seen.load(name)).finite}
    made = [*_calibration(seen, logits, summary), *_correlations(seen, logits), *_class_means(seen, logits)]
    return [section for section in [*made, *_maps(seen, logits)] if section.figures]


def _correlations(seen: Seen, logits: dict[str, np.ndarray]) -> Iterator[Section]:
    """The published figure, of the first 128 images, beside that of all of them."""
    count = len(seen.labels)
    if TEACHER not in logits or len(seen.classes) < 2 or count < 2:
        return
    spans = {f"first {FEW} images": FEW, f"all {count:,} images": count} if count > FEW else {"": count}
    students = [name for name in logits if name != TEACHER]
    found: dict[tuple[str, str], np.ndarray] = {}
    for what, rows in spans.items():
        taught = measured.correlation(logits[TEACHER][:rows])
        for name in students:
            found[name, what] = taught - measured.correlation(logits[name][:rows])
    limits = {what: max((_most(d) for (_, w), d in found.items() if w == what), default=1.0) for what in spans}
    yield Section(
        "correlation",
        "How the logits of classes go together: teacher − student",
        "The correlation matrix of the teacher's logits minus the student's. Purple: two classes go together "
        "less for the teacher than for the student; orange: more. The colours end at the largest difference of all "
        f"methods. {_few_samples(seen, spans)}".strip(),
        _shape(seen),
        [
            Figure(
                f"correlation-{name}{f'-first{FEW}' if rows == FEW and len(spans) > 1 else ''}",
                name,
                what,
                drawn.correlation_heat_map(found[name, what], seen.classes, limits[what]),
                f"max {found[name, what].max():+.3f}, min {found[name, what].min():+.3f}",
            )
            for name in students
            for what, rows in spans.items()
        ],
    )


def _few_samples(seen: Seen, spans: dict[str, int]) -> str:
    text = f"{FEW} images, as first published, leave it noisy." if len(spans) > 1 else ""
    return f"{text} {_cut(seen)}".strip()


def _cut(seen: Seen) -> str:
    count = len(seen.classes)
    return f"The first {drawn.DRAWN} of {count:,} classes are drawn." if count > drawn.DRAWN else ""


def _shape(seen: Seen) -> str:
    return "quarter" if len(seen.classes) <= drawn.SMALL else "pair"


def _class_means(seen: Seen, logits: dict[str, np.ndarray]) -> Iterator[Section]:
    if TEACHER not in logits or len(seen.classes) < 2 or not len(seen.labels):
        return
    made = []
    for name in (name for name in logits if name != TEACHER):
        found = measured.class_mean_difference(logits[TEACHER], logits[name], seen.labels)
        apart = found[~np.eye(len(found), dtype=bool)]
        known = apart[~np.isnan(apart)]
        caption = f"max {known.max():.2f}, mean {known.mean():.2f}"
        made.append(Figure(f"class-means-{name}", name, "", drawn.class_mean_heat_map(found, seen.classes), caption))
    yield Section(
        "class-means",
        "Mean logits of each class: |teacher − student|",
        "A row is the images of one class, a column the logit of one class; the diagonal is left out. Colours end at "
        f"{drawn.MEAN_LIMIT:g}. {_cut(seen)}".strip(),
        _shape(seen),
        made,
    )


def _maps(seen: Seen, logits: dict[str, np.ndarray]) -> Iterator[Section]:
    found = {name: maps.read(seen, name) for name in logits}
    several = len(seen.classes) > maps.FIRST
    titles = {
        "logits": "t-SNE of the logits",
        "first": f"t-SNE of the logits, first {maps.FIRST} classes",
        "embedding": "t-SNE of the embeddings",
    }
    for kind, title in titles.items():
        made = [
            Figure(
                f"tsne-{kind}-{name}",
                name,
                "",
                drawn.t_sne(found[name][kind], seen.labels, logits[name].argmax(1), seen.classes),
            )
            for name in logits
            if kind in found[name]
        ]
        if not made:
            continue
        counts = sorted({len(found[name][kind].index) for name in logits if kind in found[name]})
        total = len(seen.labels) if kind != "first" else int((seen.labels < maps.FIRST).sum())
        points = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        hint = f"{points} of {total:,} images, perplexity {measured.PERPLEXITY:g} at most, fitted for each network."
        if several and kind != "first":
            hint += " Colours follow the number of the class."
        yield Section(f"tsne-{kind}", title, f"{hint} Hover for the class and the answer.", "many", made)


def _calibration(seen: Seen, logits: dict[str, np.ndarray], summary: dict[str, Any]) -> Iterator[Section]:
    if not logits or not len(seen.labels) or not seen.classes:
        return
    found = {name: measured.reliability(values, seen.labels) for name, values in logits.items()}
    methods = [row["method"] for row in summary["rows"]]
    shades = figures.colours(methods, summary["baseline"])
    patterns = figures.dashes(methods, summary["baseline"]) | {TEACHER: [5, 4]}
    chart = drawn.reliability_diagram(found, shades, patterns)
    hint = (
        f"Answers by confidence, the largest softmax probability, in {measured.BINS} bins. Points are as large "
        "as their bins are full. Below the dotted line a network is surer than it is right. Click names to "
        "pick methods, click again to let go."
    )
    yield Section("reliability", "Can the confidence be trusted?", hint, "wide", [Figure("reliability", "", "", chart)])


def _most(difference: np.ndarray) -> float:
    return float(np.abs(difference).max()) or 1.0
