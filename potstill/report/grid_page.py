"""What the report of a grid shows, as values for its template."""

import math
from pathlib import Path
from typing import Any

from potstill.report import export, figures, grid_figures, grid_tables
from potstill.report.sheet import difference_text, spread
from potstill.report.toggles import toggled

NEEDED = ("title", "pairs", "failed", "result")
"""What the summary of a grid must have."""
WIDE_OPEN = 8
"""Up to so many methods, the sentences against every baseline are open."""


def context(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The variables of `grid.html.jinja`.

    Raises ValueError for a pair whose folder leaves the run.
    """
    methods = grid_tables.methods(summary)
    baseline = next((pair["summary"]["baseline"] for pair in summary["pairs"]), "student")
    return {
        "summary": summary,
        "methods": methods,
        "colours": figures.colours(methods, baseline),
        "students": sum(row["n"] for pair in summary["pairs"] for row in pair["summary"]["rows"]),
        "says": _says(summary),
        "open": len(methods) <= WIDE_OPEN,
        "overview": overview(summary, methods),
        "accuracy": grid_tables.accuracy_sheet(summary),
        "claims": grid_tables.claims_sheet(summary),
        "tallies": grid_tables.tallies_sheet(summary),
        "failed": grid_tables.failed_sheet(summary),
        "transfer": export.transfer_sheets(summary),
        "pairs": _pairs(run, summary),
        "forests": _forests(summary),
        "seeds": _seeds(summary, methods),
        "margin": grid_tables.margin_of(summary),
    }


def overview(summary: dict[str, Any], methods: list[str]) -> dict[str, Any]:
    """Differences to the lone student, methods by pairs, each with how deep its colour is (0 to 1)."""
    pairs = summary["pairs"]
    rows = {method: [_of(pair, method) for pair in pairs] for method in methods}
    found = {m: cells for m, cells in rows.items() if any(c and c["difference"] for c in cells)}
    sizes = sorted(abs(c["difference"]["mean"]) for cells in found.values() for c in cells if c and c["difference"])
    # one collapsed student must not bleach all others: the deepest colour is for the largest nineteen in twenty
    limit = max(sizes[math.ceil(0.95 * len(sizes)) - 1], 0.5) if sizes else 1.0
    lines = []
    for method, cells in found.items():
        drawn = [_heat(method, pair["pair"], cell, limit) for pair, cell in zip(pairs, cells, strict=True)]
        known = [cell["value"] for cell in drawn if cell["value"] is not None]
        mean = sum(known) / len(known)
        lines.append({"method": method, "cells": drawn, "mean": mean, "text": f"{mean:+z.2f}", "pairs": len(known)})
    return {"pairs": [pair["pair"] for pair in pairs], "lines": lines, "limit": limit}


def _of(pair: dict[str, Any], method: str) -> dict[str, Any] | None:
    return next((row for row in pair["summary"]["rows"] if row["method"] == method), None)


def _heat(method: str, pair: str, row: dict[str, Any] | None, limit: float) -> dict[str, Any]:
    found = row["difference"] if row else None
    if row is None or found is None:
        return {"text": "–", "value": None, "side": "", "depth": 0.0, "verdict": "", "says": f"{method} on {pair}: –"}
    reached = spread(row["top1_mean"], row["top1_std"], n=row["n"]).text
    between = difference_text(found["mean"], found["low"], found["high"])
    return {
        "text": f"{found['mean']:+z.2f}",
        "value": found["mean"],
        "side": "up" if found["mean"] > 0 else "down",
        "depth": round(min(1.0, abs(found["mean"]) / limit), 3),
        "verdict": found["verdict"],
        "says": f"{method} on {pair}: {reached} %, {between} points over the lone student, {found['verdict']}",
    }


def _says(summary: dict[str, Any]) -> list[dict[str, Any]]:
    lines = grid_tables.claim_sentences(summary)
    baselines = dict.fromkeys(line["baseline"] for line in lines)
    return [
        {"baseline": baseline, "lines": [line for line in lines if line["baseline"] == baseline]}
        for baseline in baselines
    ]


def _forests(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A forest plot per baseline."""
    claims, margin, found = summary.get("claims") or [], grid_tables.margin_of(summary), []
    for place, baseline in enumerate(dict.fromkeys(claim["baseline"] for claim in claims)):
        chart = grid_figures.forest([claim for claim in claims if claim["baseline"] == baseline], margin)
        if chart is not None:
            over = "the lone student" if baseline == "student" else baseline
            found.append({"key": f"forest-{place}", "title": f"Against {over}", "spec": toggled(chart)})
    return found


def _seeds(summary: dict[str, Any], methods: list[str]) -> list[dict[str, Any]]:
    found = [(pair["pair"], grid_figures.seeds_of_pair(pair["summary"], methods)) for pair in summary["pairs"]]
    return [
        {"key": f"seeds-{place}", "title": pair, "spec": toggled(chart)}
        for place, (pair, chart) in enumerate(found)
        if chart is not None
    ]


def _pairs(run: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pair with its whole table and, where it lies in the grid's folder, its own report."""
    found = []
    for pair, sheet in zip(summary["pairs"], export.pair_sheets(summary), strict=True):
        report = run / pair["folder"] / "report.html"
        if not report.resolve().is_relative_to(run.resolve()):
            raise ValueError(f"summary.json: folder {pair['folder']!r} leaves the run")
        link = f"{pair['folder']}/report.html" if report.is_file() else None
        found.append({"pair": pair["pair"], "summary": pair["summary"], "sheet": sheet, "report": link})
    return found
