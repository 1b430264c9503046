"""`potstill report`: the page of a run, and its figures as files, from the run's folder alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from potstill.console import Talk
from potstill.evaluation import maps
from potstill.report.export import write_tables
from potstill.report.files import write_figures
from potstill.report.page import read_answers, read_summary, write_report


@dataclass(frozen=True)
class Report:
    """Write report.html of a run folder again, from its files alone, with the t-SNE maps that are not drawn yet."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    figures: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also write every figure into this folder, as PNG and as SVG."""
    tables: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also write the tables into this folder: Markdown, LaTeX, HTML, and each student as a row of CSV and Parquet."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""


def _first(summary: dict[str, Any]) -> str:
    return next((pair["folder"] for pair in summary["pairs"]), "none of which is finished")


def run(arguments: Sequence[str]) -> int:
    given = tyro.cli(Report, args=arguments, prog="potstill report")
    talk = Talk(quiet=given.quiet)
    summary = read_summary(given.run)
    seen = None if summary.get("kind") == "grid" else read_answers(given.run, summary)
    if seen is not None:
        maps.draw(seen, talk)
    if given.tables is not None:
        sys.stdout.write("".join(f"{path}\n" for path in write_tables(given.tables, summary)))
    sys.stdout.write(f"{write_report(given.run)}\n")
    if given.figures is not None and seen is None and summary.get("kind") == "grid":
        raise ValueError(f"{given.run} is a grid: its pairs have the figures, e.g. {_first(summary)}")
    if given.figures is not None:
        paths = write_figures(given.run, given.figures, talk)
        sys.stdout.write(f"{given.figures}: {len(paths)} files\n")
    return 0
