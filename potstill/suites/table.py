"""What a suite measured of the networks of a run, as one table: `<suite>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from potstill.evaluation.statistics import mean_std, paired_difference
from potstill.suites.suite import Suite
from potstill.transfer.networks import LONE, Probe

KIND = "evaluation"
_OPPOSITE = {"better": "worse", "worse": "better"}


def table_of(
    name: str, suite: Suite, found: Sequence[tuple[Probe, dict[str, Any]]], dataset: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """`teacher` (or None), `assistants`, and `rows`: of each method `mean`, `std`, `values`, `seeds`, and `difference`,
    column by column, to the lone student over the seeds that both have.
    """
    columns, better = dict(suite.columns()), dict(suite.better())
    rows: dict[str, list[tuple[Probe, dict[str, Any]]]] = {}
    for probe, values in found:
        if probe.role == "student":
            rows.setdefault(probe.method, []).append((probe, values))
    teacher, others = (
        [{"name": probe.label, "model": probe.model, **values} for probe, values in found if probe.role == role]
        for role in ("teacher", "assistant")
    )
    lone = {probe.seed: values for probe, values in rows.get(LONE, ())}
    return {
        "kind": KIND,
        "suite": name,
        "title": suite.title,
        "options": {"suite": name, **asdict(suite)},
        "settings": settings,
        "dataset": dataset,
        "columns": columns,
        "parts": {title: list(keys) for title, keys in suite.parts().items()},
        "better": better,
        "baseline": LONE,
        "teacher": next(iter(teacher), None),
        "assistants": others,
        "rows": [
            {**_row(method, group, columns), "difference": _differences(group, {} if method == LONE else lone, better)}
            for method, group in rows.items()
        ],
        "notes": list(suite.notes()),
    }


def before(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What stands in a table that was made with the same settings, by the networks' labels; {} for any other.

    Raises ValueError for a file that cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text())
        if table.get("settings") != json.loads(json.dumps(settings)):
            return {}
        teacher = [table["teacher"]] if table["teacher"] else []
        found = {one["name"]: one for one in (*teacher, *table["assistants"])}
        for row in table["rows"]:
            for seed, values in zip(row["seeds"], row["values"], strict=True):
                found[f"{row['method']} seed {seed}"] = values
        return {
            label: {key: value for key, value in values.items() if key not in ("name", "model")}
            for label, values in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; delete it to measure again") from None


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


def _differences(
    group: Sequence[tuple[Probe, dict[str, Any]]], lone: dict[int, dict[str, Any]], better: Mapping[str, str]
) -> dict[str, Any] | None:
    """By column, like `summary.json`'s `difference`; a `verdict` says which is better, whichever way that is."""
    found = {}
    for key, way in better.items():
        sides = [(values.get(key), lone[probe.seed].get(key)) for probe, values in group if probe.seed in lone]
        pairs = [(ours, theirs) for ours, theirs in sides if ours is not None and theirs is not None]
        if pairs:
            difference = paired_difference(*map(list, zip(*pairs, strict=True)))
            verdict = difference.verdict
            verdict = _OPPOSITE.get(verdict, verdict) if way == "lower" else verdict
            found[key] = {**asdict(difference), "verdict": verdict, "paired": True}
    return found or None
