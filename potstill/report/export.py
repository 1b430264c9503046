"""The tables of a run or a grid as files and in the terminal."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
from rich.console import Group
from rich.text import Text

from potstill.checkpoint import write_beside
from potstill.report import formats
from potstill.report.grid_tables import accuracy_sheet, accuracy_sheets, claims_sheet, failed_sheet, tallies_sheet
from potstill.report.sheet import Sheet
from potstill.report.tables import run_sheet
from potstill.report.tidy import records

ACROSS = 4
"""Pairs side by side in Markdown and LaTeX; a page holds no more with published numbers beside ours."""


def sheets(summary: dict[str, Any], *, across: int | None = None) -> list[Sheet]:
    """Every table of a run's or a grid's summary, most important first; `across` splits the pairs of a grid."""
    if summary.get("kind") != "grid":
        return [run_sheet(summary)]
    first = [accuracy_sheet(summary)] if across is None else accuracy_sheets(summary, across)
    rest = (claims_sheet(summary), tallies_sheet(summary), failed_sheet(summary))
    return [*first, *filter(None, rest), *transfer_sheets(summary), *pair_sheets(summary)]


def pair_sheets(summary: dict[str, Any]) -> list[Sheet]:
    """The whole table of every pair of a grid."""
    return [
        run_sheet(pair["summary"], key=f"pair{place}", title=f"{pair['pair']}: top-1 accuracy in percent")
        for place, pair in enumerate(summary["pairs"], 1)
    ]


def transfer_sheets(summary: dict[str, Any]) -> list[Sheet]:
    """The linear probes of a grid's networks, a table for each pair, data set and arm."""
    return [
        run_sheet(
            found, key=f"transfer{place}", title=f"{found.get('pair', '')} on {found['dataset']}: top-1 in percent"
        )
        for place, found in enumerate(summary.get("transfer") or (), 1)
    ]


def terminal(summary: dict[str, Any], width: int | None = None) -> Group:
    """What a terminal shows of a run or a grid: as many pairs side by side as fit, and no tables of single pairs."""
    width = shutil.get_terminal_size((100, 24)).columns if width is None else width
    if summary.get("kind") != "grid":
        return Group(formats.rich_table(run_sheet(summary), width))
    across = max(1, len(summary["pairs"]))
    while across > 1 and max(map(formats.natural_width, accuracy_sheets(summary, across))) > width:
        across -= 1
    # what is said of one part is said of all: once, below the last
    parts = [replace(part, footnotes=()) for part in accuracy_sheets(summary, across)]
    notes = [formats.footnote(note) for note in accuracy_sheet(summary).notes]
    rest = [claims_sheet(summary), tallies_sheet(summary), failed_sheet(summary), *transfer_sheets(summary)]
    drawn = [formats.rich_table(sheet, width) for sheet in parts] + notes
    for sheet in filter(None, rest):
        drawn += [Text(), formats.rich_table(sheet, width)]
    return Group(*drawn, *map(Text, summary["notes"]))


def write_tables(out: Path | str, summary: dict[str, Any]) -> list[Path]:
    """Write `table.md`, `.tex`, `.html`, and one record per student as `.csv` and `.parquet`; returns their paths.

    Each is written beside and renamed, so that an older table stays until the new one is complete.
    """
    out = Path(out)
    found = sheets(summary, across=ACROSS)
    title, notes = summary.get("title") or summary.get("dataset") or "Grid", list(summary.get("notes") or [])
    table = records(summary)
    contents: dict[str, Callable[[], bytes]] = {
        "table.md": lambda: _markdown(found, notes).encode(),
        "table.tex": lambda: _latex(found, notes).encode(),
        "table.csv": lambda: _bytes(lambda file: pyarrow.csv.write_csv(table, file)),
        "table.parquet": lambda: _bytes(lambda file: pyarrow.parquet.write_table(table, file)),
        "table.html": lambda: formats.html(sheets(summary), title, notes).encode(),
    }
    for name, content in contents.items():
        data = content()
        write_beside(out / name, lambda path, data=data: path.write_bytes(data))
    return [out / name for name in contents]


def _markdown(found: list[Sheet], notes: list[str]) -> str:
    parts = [f"### {formats.escaped(sheet.title)}\n\n{formats.markdown(sheet)}" for sheet in found]
    if notes:
        parts.append("### Notes\n\n" + "".join(f"- {formats.escaped(note)}\n" for note in notes))
    return "\n".join(parts)


def _latex(found: list[Sheet], notes: list[str]) -> str:
    head = "% \\usepackage{booktabs,adjustbox}\n"
    lines = [f"% {line}" for note in notes for line in note.splitlines()]
    return head + "".join(f"{line}\n" for line in lines) + "\n" + "\n".join(formats.latex(sheet) for sheet in found)


def _bytes(write: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()
