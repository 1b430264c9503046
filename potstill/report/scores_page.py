"""What the report of a comparison by scores shows, as values for its template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potstill.report import figures
from potstill.report.scores_table import scores_sheet
from potstill.report.toggles import toggled

NEEDED = ("dataset", "measures", "rows", "baseline", "result")
"""What the summary must have."""
TITLES = {
    "replaced": "Share of tokens that the teacher replaced",
    "length": "Tokens of a written response",
    "entropy": "Entropy of the student where it writes (nats)",
    "end_of_text_rate": "Share of written responses that end",
    "repetition": "Share of bigrams that are repeated",
    "top_k_overlap": "Share of the teacher's top k among the student's",
    "written_share": "Share of batches or texts that the student wrote",
    "threshold": "Threshold of the student's own texts",
}
"""What is counted of written texts."""
SHOWN = 8
"""Answers that are shown."""


def context(run: Path, summary: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The variables of `scores.html.jinja`."""
    rows = summary["rows"]
    return {
        "summary": summary,
        "colours": figures.colours([row["method"] for row in rows], summary["baseline"]),
        "sheet": scores_sheet(summary),
        "charts": [
            {"key": key, "title": title, "spec": toggled(chart)} for key, title, chart in charts(summary, records)
        ],
        "answers": _answers(run, summary),
    }


def charts(summary: dict[str, Any], records: list[dict[str, Any]]) -> list[tuple[str, str, figures.Chart]]:
    """Key, title and chart of every measure over epochs, and of what written texts were like."""
    known = (summary.get("teacher") or {}).get("scores") or {}
    made = [
        (
            f"curves-{one['name']}",
            f"{one['title']} over epochs",
            figures.over_epochs(summary, records, f"valid_{one['name']}", one["title"], known.get(one["name"])),
        )
        for one in summary["measures"]
    ]
    counted = [{**record, **(record.get("report") or {})} for record in records]
    made += [
        (f"texts-{name}", title, figures.over_epochs(summary, counted, name, name.replace("_", " "), None))
        for name, title in TITLES.items()
    ]
    return [(key, title, chart) for key, title, chart in made if chart is not None]


def _answers(run: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Prompts, each with its references and what the networks answered, of every method's first seed."""
    found: list[dict[str, Any]] = []
    teacher = [("(teacher)", "teacher")] if (run / "teacher" / "samples.json").is_file() else []
    for name, folder in [*teacher, *((row["method"], row["folders"][0]) for row in summary["rows"])]:
        path = run / folder / "samples.json"
        if not path.resolve().is_relative_to(run.resolve()):
            raise ValueError(f"summary.json: folder {folder!r} leaves the run")
        items = json.loads(path.read_text())["items"][:SHOWN] if path.is_file() else []
        for place, item in enumerate(items):
            if place == len(found):
                found.append({"prompt": item["prompt"], "references": item["references"], "lines": []})
            found[place]["lines"].append({"method": name, "text": item["response"]})
    return found
