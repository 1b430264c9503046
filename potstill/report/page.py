"""The report of a run: one HTML file that needs no network, written from the run's folder alone."""

import base64
import binascii
import io
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from potstill.evaluation import answers, maps
from potstill.report import evaluation, figures, formats, grid_page, robustness, scores_page, tables
from potstill.report.fidelity_table import fidelity_sheet
from potstill.report.sections import Section, sections
from potstill.report.toggles import toggled

_PNG = b"\x89PNG\r\n\x1a\n"
_SMALL = 96  # images up to this many pixels wide are enlarged with hard edges
_SHOWN = 16  # examples per method
EVALUATIONS = ("retrieval", "robustness")
"""Suites of `potstill evaluate` whose tables a report shows."""


def write_report(run: Path | str) -> Path:
    """Write `report.html` into a run's folder from what lies there, and return its path.

    Reads `summary.json`, and where they exist `recipe.json`, `labels.safetensors`, `retrieval.json`, `robustness.json`,
    each cell's `metrics.jsonl` and `examples.json`, and each network's `outputs.safetensors` and `tsne.safetensors`, or
    for a grid `grid.json`; a section without its file is left out. An older report stays until the new one is complete.

    Raises ValueError for a folder without `summary.json` and for files that are not what they should be.
    """
    run = Path(run)
    return _write(run / "report.html", render(run).encode())


def save_figure(chart: figures.Chart, path: Path | str) -> Path:
    """Write a figure as PNG or SVG on white, by the file's ending, and return its path.

    Raises ValueError for any other ending.
    """
    path = Path(path)
    square: Any = {"height": 620} if chart.to_dict(validate=False)["height"] == "container" else {}
    fixed = chart.properties(width=620, background="white", **square)
    if path.suffix == ".png":
        image = io.BytesIO()
        fixed.save(image, format="png", scale_factor=2)
        return _write(path, image.getvalue())
    if path.suffix == ".svg":
        text = io.StringIO()
        fixed.save(text, format="svg")
        return _write(path, text.getvalue().encode())
    raise ValueError(f"{path.name}: expected a name that ends in .png or .svg")


def render(run: Path) -> str:
    """The text of the report."""
    summary = read_summary(run)
    if summary.get("kind") == "grid":
        return (
            formats.environment()
            .get_template("grid.html.jinja")
            .render(
                **grid_page.context(run, summary),
                vega=_vega(),
                recipe=list(_flat(_read_json(run / "grid.json", dict) or {})),
            )
        )
    records = read_curves(run, summary)
    recipe = _read_json(run / "recipe.json", dict) or {}
    environment = recipe.pop("environment", None) or {}
    if summary.get("kind") == "scores":
        return (
            formats.environment()
            .get_template("scores.html.jinja")
            .render(
                **scores_page.context(run, summary, records),
                terms=[{**about, "spec": chart.to_dict()} for about, chart in terms(summary, records)],
                recipe=list(_flat(recipe)),
                environment=list(_flat(environment)),
                vega=_vega(),
            )
        )
    seen = read_answers(run, summary)
    drawn = charts(summary, records)
    evaluated = evaluations(run)
    found = every_section(run, summary, seen)
    return (
        formats.environment()
        .get_template("page.html.jinja")
        .render(
            summary=summary,
            colours=figures.colours([row["method"] for row in summary["rows"]], summary["baseline"]),
            sheet=tables.run_sheet(summary),
            fidelity=fidelity_sheet(summary),
            sentences=tables.sentences(summary),
            charts=[
                {"key": key, "title": title, "spec": toggled(chart), "picks": "curves" in key}
                for key, title, chart in drawn
            ],
            terms=[{**about, "spec": chart.to_dict()} for about, chart in terms(summary, records)],
            evaluations=[{"title": table["title"], "sheets": evaluation.sheets(table)} for table in evaluated],
            sections=[_laid_out(section) for section in found],
            undrawn=bool(seen and maps.missing(seen)),
            examples=list(_examples(run, summary)),
            recipe=list(_flat(recipe)),
            environment=list(_flat(environment)),
            vega=_vega() if drawn or seen or found else "",
        )
    )


def read_summary(run: Path) -> dict[str, Any]:
    """The content of `summary.json`, checked for what a report needs."""
    path = run / "summary.json"
    summary = _read_json(path, dict)
    if summary is None:
        raise ValueError(f"{run}: no summary.json; expected the folder of a finished run")
    usual = ("dataset", "rows", "baseline", "result")
    needed = {"grid": grid_page.NEEDED, "scores": scores_page.NEEDED}.get(summary.get("kind", ""), usual)
    missing = [key for key in needed if key not in summary]
    if missing:
        raise ValueError(f"{path}: lacks {', '.join(missing)}")
    return summary


def read_curves(run: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows of the cells' `metrics.jsonl`, each with its `method` and `seed`, ready for the figures."""
    return [
        {**record, "method": row["method"], "seed": seed}
        for row in summary["rows"]
        for seed, folder in zip(row["seeds"], row["folders"], strict=True)
        for record in _read_lines(_inside(run, folder) / "metrics.jsonl")
    ]


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The tables of `potstill evaluate` that lie in a run's folder."""
    return [table for name in EVALUATIONS if (table := evaluation.read(run, name))]


def every_section(run: Path, summary: dict[str, Any], seen: answers.Seen | None) -> list[Section]:
    """Of what the networks answered, and of how robust they are."""
    robust = evaluation.read(run, "robustness")
    return [*(sections(seen, summary) if seen else []), *(robustness.sections(robust) if robust else [])]


def read_answers(run: Path, summary: dict[str, Any]) -> answers.Seen | None:
    """Where the networks' answers on the validation data lie; None for a run that kept none."""
    rows = [row for row in summary["rows"] if tables.trained_classifier(row)]
    return answers.read(run, {row["method"]: [_inside(run, folder) for folder in row["folders"]] for row in rows})


def _write(path: Path, content: bytes) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


@lru_cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, in the versions that the figures are written for."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script")


def charts(summary: dict[str, Any], records: list[dict[str, Any]]) -> list[tuple[str, str, figures.Chart]]:
    """Key, title and chart of what is known of accuracy and agreement."""
    made = [
        ("accuracy", "Accuracy of every seed", figures.final_accuracy(summary)),
        ("curves", "Accuracy over epochs", figures.accuracy_curves(summary, records)),
        ("agreement", "Agreement with the teacher", figures.final_agreement(summary)),
        ("agreement-curves", "Agreement over epochs", figures.agreement_curves(summary, records)),
    ]
    return [(key, title, chart) for key, title, chart in made if chart is not None]


def terms(summary: dict[str, Any], records: list[dict[str, Any]]) -> list[tuple[dict[str, Any], figures.Chart]]:
    """Method and expansion, and the curves of its loss terms."""
    made = [(row, figures.term_curves(summary, records, row["method"])) for row in summary["rows"]]
    return [
        ({"method": row["method"], "expansion": row.get("expansion")}, chart)
        for row, chart in made
        if chart is not None
    ]


def _laid_out(section: Section) -> dict[str, Any]:
    """A section as the page reads it: figures as specs, those of the first networks and the others."""
    number = {figure.key: place for place, figure in enumerate(section.figures)}
    parts = [
        [
            {
                "place": f"{section.key}-{number[figure.key]}",
                "name": figure.name,
                "what": figure.what,
                "caption": figure.caption,
                "spec": toggled(figure.chart) if section.shape == "wide" else figure.chart.to_dict(validate=False),
            }
            for figure in part
        ]
        for part in section.split
    ]
    return {"title": section.title, "hint": section.hint, "shape": section.shape, "shown": parts[0], "more": parts[1]}


def _examples(run: Path, summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Per method, the examples of its first seed that has any."""
    for row in summary["rows"]:
        for seed, folder in zip(row["seeds"], row["folders"], strict=True):
            path = _inside(run, folder) / "examples.json"
            found = _read_json(path, dict) or {}
            if items := found.get("items"):
                shown = [_picture(path, item) for item in items[:_SHOWN]]
                yield {"method": row["method"], "seed": seed, "pictures": shown, "total": len(items)}
                break


def _picture(path: Path, item: dict[str, Any]) -> dict[str, Any]:
    try:
        image = base64.b64decode(item["png"], validate=True)
        words = {key: str(item[key]) for key in ("label", "teacher", "student")}
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"{path}: an item is not an example: {error!r}") from error
    if image[:8] != _PNG:
        raise ValueError(f"{path}: the image of item {item.get('index')} is not a PNG file")
    width = int.from_bytes(image[16:20], "big")
    return {**words, "png": item["png"], "index": item.get("index"), "small": width <= _SMALL}


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text) in order of the file."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list) and any(isinstance(value, (dict, list)) for value in values):
        for place, value in enumerate(values):
            yield from _flat(value, f"{name}[{place}]")
    elif name:
        yield name, values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)


def _inside(run: Path, folder: str) -> Path:
    path = run / folder
    if not path.resolve().is_relative_to(run.resolve()):
        raise ValueError(f"summary.json: folder {folder!r} leaves the run")
    return path


def _read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file, or None where there is no such file."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return  # a run that was killed while writing, or still writes
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
