"""Which networks a folder holds: those of a run, of every run of a grid, or one student."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from potstill.console import Talk
from potstill.data import Preprocess
from potstill.errors import did_you_mean
from potstill.evaluation.scores import KIND as SCORES
from potstill.models import brings_weights, build, load_weights
from potstill.runs import RECIPE, SUMMARY
from potstill.student import CARD, Predictor, load

TEACHER = "teacher"
LONE = "student"


@dataclass(frozen=True)
class Probe:
    """A network that is to be probed. `relative` is its folder inside the run; `alone`, that it is the run."""

    method: str
    seed: int
    folder: Path
    load: Callable[[], Predictor]
    model: str
    relative: str = "."
    expansion: str = ""
    teacher_free: bool = False
    teacher: bool = False
    alone: bool = False
    assistant: bool = False
    classifies: bool = True

    @property
    def label(self) -> str:
        if self.assistant:
            return self.method
        return TEACHER if self.teacher else f"{self.method} seed {self.seed}"

    @property
    def role(self) -> str:
        """`teacher`, `assistant` or `student`."""
        return TEACHER if self.teacher else "assistant" if self.assistant else LONE


def runs_of(folder: Path) -> list[tuple[Path, str | None]]:
    """The run folders in a grid with the names of its pairs; any other folder by itself.

    Raises ValueError for a run of language models.
    """
    if _json(folder / SUMMARY).get("kind") == SCORES:
        raise ValueError(
            f"{folder} is a run of language models, and what is measured here are image classifiers; the scores of its "
            f"texts are in {folder / SUMMARY} and in its report.html"
        )
    pairs = sorted(inner for inner in (folder / "pairs").glob("*") if inner.is_dir())
    return [(inner, inner.name) for inner in pairs] or [(folder, None)]


def networks(run: Path, methods: Sequence[str], talk: Talk) -> list[Probe]:
    """The teacher, and every finished seed of every method (or of these), in the order of the run's table.

    Raises ValueError for a folder without a student, and for a method that the run does not have.
    """
    cards = {path.parent: _json(path) for path in sorted(run.glob(f"*/seed*/{CARD}"))}
    if not cards:
        if methods:
            load(run)  # which says what is wrong with the folder
            raise ValueError(f"{run} holds one student, not several methods; leave out --methods")
        predictor = load(run)
        card = _json(run / CARD)
        name, seed = card.get("method") or LONE, card.get("seed") or 0
        return [
            Probe(name, seed, run, lambda: predictor, _model(card), expansion=card.get("expansion", ""), alone=True)
        ]
    there = _ordered(run, list(dict.fromkeys(folder.parent.name for folder in cards)))
    for method in methods:
        if method not in there:
            raise ValueError(f"{run} has no finished student of method {method!r}; {did_you_mean(method, there)}")
    found = []
    for method in methods or there:
        inside = [folder for folder in cards if folder.parent.name == method]
        for folder in sorted(inside, key=lambda folder: int(folder.name.removeprefix("seed"))):
            card, cell = cards[folder], _json(folder / "result.json").get("cell", {})
            probe = Probe(
                method,
                int(folder.name.removeprefix("seed")),
                folder,
                partial(load, folder),
                _model(card),
                relative=folder.relative_to(run).as_posix(),
                expansion=card.get("expansion", ""),
                teacher_free=cell.get("teacher_free", False),
                classifies=cell.get("classifies", True),
            )
            found.append(probe)
    teacher = _teacher(run, next(iter(cards.values())), min(probe.seed for probe in found), talk)
    return [*teacher, *found]


def assistants(run: Path) -> list[Probe]:
    """The assistants that a run trained, in the order of its recipe; one that came with weights is left out."""
    names = [one["name"] for one in _json(run / RECIPE).get("recipe", {}).get("assistants") or []]
    found = []
    for folder in (run / name for name in names):
        if (folder / CARD).is_file():
            card = _json(folder / CARD)
            model, expansion = _model(card), card.get("expansion", "")
            loading = partial(load, folder)
            seed = card.get("seed") or 0
            probe = Probe(folder.name, seed, folder, loading, model, folder.name, expansion, assistant=True)
            found.append(replace(probe, classifies=card.get("top1", 0) is not None))
    return found


def _teacher(run: Path, card: dict[str, Any], seed: int, talk: Talk) -> list[Probe]:
    """The teacher, from its folder or from the weights that the recipe names; [] where they are not to be had."""
    folder, spec = run / TEACHER, _json(run / RECIPE).get("recipe", {}).get(TEACHER) or {}
    if (folder / CARD).is_file():
        return [Probe(TEACHER, seed, folder, partial(load, folder), _model(_json(folder / CARD)), teacher=True)]
    weights, name = spec.get("checkpoint"), spec.get("name")
    if name is None or (weights is None and not brings_weights(name, spec.get("pretrained") or False)):
        talk.warn(f"the teacher is left out: {run} says nothing of where its weights are")
        return []
    if weights is not None and not Path(weights).is_file():
        talk.warn(f"the teacher is left out: its weights are not at {weights}, where {run / RECIPE} says")
        return []
    return [Probe(TEACHER, seed, folder, partial(_built, spec, card), name, teacher=True)]


def _built(spec: dict[str, Any], card: dict[str, Any]) -> Predictor:
    """A teacher that the run did not train, as its recipe builds it; `card` is that of a student beside it."""
    model = build(
        spec["name"],
        num_classes=spec.get("outputs") or len(card["classes"]),
        in_channels=card["channels"],
        pretrained=spec.get("pretrained") or False,
        **{key: spec[key] for key in ("width", "depth") if spec.get(key) is not None},
    )
    if spec.get("checkpoint"):
        load_weights(model, Path(spec["checkpoint"]))
    return Predictor(model.eval(), Preprocess(size=spec.get("size")), (), card["channels"])


def _ordered(run: Path, methods: list[str]) -> list[str]:
    """In the order of the run's table; the lone student first where there is none."""
    rows = [row.get("method") for row in _json(run / SUMMARY).get("rows", [])]
    place = {name: number for number, name in enumerate(rows)}
    return sorted(methods, key=lambda name: (place.get(name, len(place)), name != LONE, name))


def _model(card: dict[str, Any]) -> str:
    model = card.get("model", {})
    return model.get("name") or model.get("class") or "network"


def _json(path: Path) -> dict[str, Any]:
    """{} where there is no such file. Raises ValueError for one that cannot be read."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return value if isinstance(value, dict) else {}
