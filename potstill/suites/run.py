"""A suite over everything that a run trained: teacher, assistants, and every seed of every method.

The table is written to the run's folder as `<suite>.json`; a grid has one in the folder of each pair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from potstill import checkpoint, runs
from potstill.cell import source
from potstill.console import Talk
from potstill.data import Data, Preprocess, Split, first, load
from potstill.evaluation.statistics import mean_std
from potstill.precision import Precision
from potstill.student import CARD
from potstill.suites.suite import Seen, Suite
from potstill.transfer.networks import Probe, assistants, networks, runs_of

KIND = "evaluation"
PROBED = 4
"""Images that a network is looked at with."""


@dataclass(frozen=True)
class Options:
    """Which networks are measured, and how they compute."""

    methods: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = field(default_factory=Precision)
    talk: Talk = field(default_factory=lambda: Talk(quiet=True))


def data_of(run: Path) -> Data:
    """The data that a run was trained on, from its `recipe.json` (a grid's: of its first pair).

    Raises ValueError for a folder that says nothing of it.
    """
    for folder, _ in runs_of(run):
        if (said := _recipe(folder).get("data")) is not None:
            known = {item.name for item in fields(Data)}
            values: dict[str, Any] = {name: value for name, value in said.items() if name in known}
            values["root"] = Path(values["root"]) if values.get("root") else None
            return Data(**values)
    raise ValueError(
        f"{run} has no {runs.RECIPE} that says what it was trained on; give the folder of a run (not of one student), "
        "or the data: --data NAME or --data.root FOLDER"
    )


def evaluate(
    run: str | Path, name: str, suite: Suite, data: Data | None = None, options: Options | None = None
) -> list[dict[str, Any]]:
    """Measure every network of a run folder, or of each run of a grid; returns a table for each run.

    A table has `teacher` (or None), `assistants`, and `rows`: a method's `mean`, `std` and `values` for each column,
    with `seeds`. It is written to `<run>/<name>.json`, unless the folder is that of one student. `data` are the run's
    own when left out.

    Raises:
        ValueError: a folder without a student, unknown methods, and whatever is wrong with data and networks.
    """
    run, options = Path(run), options or Options()
    asked = [(folder, pair, networks(folder, options.methods, options.talk)) for folder, pair in runs_of(run)]
    splits = load(data or data_of(run), quiet=options.talk.quiet)
    train, valid = (split.to(options.device) for split in splits)
    seen = Seen(train, valid, options.device, options.talk)
    found = []
    for folder, pair, probes in asked:
        taught = [probe for probe in probes if probe.teacher]
        every = [*taught, *assistants(folder), *(probe for probe in probes if not probe.teacher)]
        with options.talk.counted(name, len(every)) as advance:
            values = []
            for probe in every:
                values.append((probe, _measured(probe, folder, suite, seen, options)))
                advance()
        table = _table(name, suite, values, train)
        table |= {"run": str(folder), "environment": runs.environment()} | ({} if pair is None else {"pair": pair})
        if not all(probe.alone for probe in every):
            checkpoint.write_json(folder / f"{name}.json", table)
        found.append(table)
    return found


def _measured(probe: Probe, run: Path, suite: Suite, seen: Seen, options: Options) -> dict[str, Any]:
    predictor = probe.load()
    if predictor.channels not in (None, seen.train.channels):
        raise ValueError(
            f"{probe.folder}: the network takes {predictor.channels} channel(s), the images of {seen.train.name} have "
            f"{seen.train.channels}"
        )
    preprocess = predictor.preprocess or Preprocess.of(seen.train)
    if probe.teacher and not (probe.folder / CARD).is_file():  # loaded from elsewhere, as its recipe says
        preprocess = _said(_recipe(run).get("teacher") or {}, seen.train)
    live = source(
        predictor.model,
        first(seen.train, PROBED, options.device),
        trained=False,
        preprocess=preprocess,
        precision=options.precision,
    )
    try:
        return dict(suite.measure(live, seen))
    finally:
        live.close()


def _said(spec: dict[str, Any], train: Split) -> Preprocess:
    """The preprocessing of a network of the recipe."""
    label_map = tuple(spec["label_map"]) if spec.get("label_map") is not None else None
    usual = Preprocess.of(train)
    if spec.get("mean") is not None:
        usual = replace(usual, mean=tuple(spec["mean"]), std=tuple(spec["std"]))
    return replace(usual, size=spec.get("size"), label_map=label_map)


def _table(name: str, suite: Suite, found: Sequence[tuple[Probe, dict[str, Any]]], train: Split) -> dict[str, Any]:
    columns = dict(suite.columns())
    rows: dict[str, list[tuple[Probe, dict[str, Any]]]] = {}
    for probe, values in found:
        if probe.role == "student":
            rows.setdefault(probe.method, []).append((probe, values))
    teacher, others = (
        [{"name": probe.label, "model": probe.model, **values} for probe, values in found if probe.role == role]
        for role in ("teacher", "assistant")
    )
    return {
        "kind": KIND,
        "suite": name,
        "title": suite.title,
        "options": {"suite": name, **asdict(suite)},
        "dataset": train.name,
        "columns": columns,
        "teacher": next(iter(teacher), None),
        "assistants": others,
        "rows": [_row(method, group, columns) for method, group in rows.items()],
        "notes": list(suite.notes()),
    }


def _row(method: str, group: Sequence[tuple[Probe, dict[str, Any]]], columns: dict[str, str]) -> dict[str, Any]:
    mean, std = {}, {}
    for key in columns:
        known = [values[key] for _, values in group if values.get(key) is not None]
        mean[key], std[key] = mean_std(known) if known else (None, None)
    return {
        "method": method,
        "expansion": group[0][0].expansion,
        "n": len(group),
        "seeds": [probe.seed for probe, _ in group],
        "mean": mean,
        "std": std,
        "values": [values for _, values in group],
        "folders": [probe.relative for probe, _ in group],
    }


def _recipe(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / runs.RECIPE).read_text()).get("recipe", {})
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{run / runs.RECIPE} is damaged: {error}") from None
