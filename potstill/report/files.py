"""The figures of a report as files of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt

from potstill.console import Talk
from potstill.report import page
from potstill.report.figures import Chart

ENDINGS = (".png", ".svg")


def write_figures(run: Path | str, folder: Path | str, talk: Talk | None = None) -> list[Path]:
    """Write every figure of a run's report into `folder`, as PNG and as SVG, and return their paths.

    Raises ValueError as `write_report` does, and where `folder` is a file.
    """
    run, folder = Path(run), Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give --figures a folder")
    made = list(_titled(run))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with (talk or Talk(quiet=True)).counted("figures", len(made)) as advance:
        for name, chart in made:
            written += [page.save_figure(chart, folder / f"{name}{ending}") for ending in ENDINGS]
            advance()
    return written


def _titled(run: Path) -> Iterator[tuple[str, Chart]]:
    summary = page.read_summary(run)
    records = page.read_curves(run, summary)
    for key, title, chart in page.charts(summary, records):
        yield key, _with_title(chart, title)
    for about, chart in page.terms(summary, records):
        method = about["method"]
        yield _name(f"terms-{method}"), _with_title(chart, f"Loss terms: {method}", about["expansion"])
    seen = page.read_answers(run, summary)
    for section in page.every_section(run, summary, seen):
        for figure in section.figures:
            whose = ", ".join(text for text in (figure.name, figure.what) if text)
            yield _name(figure.key), _with_title(figure.chart, section.title, whose, figure.caption)


def _with_title(chart: Chart, title: str, *beneath: str | None) -> Chart:
    lines = [line for line in beneath if line]
    more: dict[str, Any] = {"subtitle": lines} if lines else {}
    return chart.properties(title=alt.TitleParams(title, anchor="start", fontWeight="normal", **more))


def _name(text: str) -> str:
    """What every file system takes: method names may hold signs that some do not."""
    return re.sub(r"[^\w.+~-]+", "-", text)
