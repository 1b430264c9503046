"""A `Sheet` drawn: for a terminal, as Markdown, as LaTeX, as HTML."""

import re
import shutil
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

import jinja2
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from potstill.report.sheet import Cell, Sheet

_STYLES = {"better": "green", "worse": "red", "equivalent": "blue", "undecided": "dim", "not powered": "dim"}
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "…": r"\dots{}"},
    **{"<": "$<$", ">": "$>$", "|": r"\textbar{}", '"': "''"},
    **{"±": r"$\pm$", "→": r"$\rightarrow$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "²": r"$^2$"},
}


def rich_table(sheet: Sheet, width: int | None = None) -> Group:
    """Title, table and footnotes for a terminal `width` columns wide (default: this terminal's).

    Columns that may go do so, in their order, until it fits; a footnote names them.
    """
    width = shutil.get_terminal_size((100, 24)).columns if width is None else width
    hidden: list[str] = []
    while natural_width(sheet) > width:
        leaving = [column for column in sheet.columns if column.goes is not None]
        if not leaving:
            break
        gone = min(leaving, key=lambda column: column.goes or 0)
        sheet = sheet.only(lambda column: column is not gone)  # noqa: B023 (called at once)
        hidden.append(gone.heading)
    notes = sheet.notes + ([f"Not shown at this width: {', '.join(hidden)}."] if hidden else [])
    return Group(Text(sheet.title, style="italic"), _rich(sheet), *map(footnote, notes))


def footnote(text: str) -> Text:
    """A footnote for a terminal."""
    return Text(text, style="dim italic")


def natural_width(sheet: Sheet) -> int:
    """How many columns of a terminal the table takes without folding anything."""
    console = Console(width=10_000)
    return _rich(sheet).__rich_measure__(console, console.options).maximum


def _rich(sheet: Sheet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, heading in zip(sheet.columns, _headings(sheet, "\n"), strict=True):
        justify = "left" if column.words else "right"
        table.add_column(Text(heading), justify=justify, no_wrap=not column.words, overflow="fold")
    for row, following in zip(sheet.rows, [*sheet.rows[1:], None], strict=True):
        texts = [_styled(row[column.key]) for column in sheet.columns]
        table.add_row(*texts, end_section=row.pinned and following is not None and not following.pinned)
    return table


def _styled(cell: Cell) -> Text:
    style = " ".join(filter(None, (_STYLES.get(cell.tone, ""), "bold" if cell.strong else "")))
    return Text(f"{cell.text} {cell.mark}" if cell.mark else cell.text, style=style)


def markdown(sheet: Sheet) -> str:
    """GitHub Markdown with the footnotes below; ends with a newline."""
    lines = [list(map(escaped, _headings(sheet, " ")))]
    lines.append([":--" if column.words else "--:" for column in sheet.columns])
    lines += [[_marked_down(row[column.key]) for column in sheet.columns] for row in sheet.rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    return text + ("\n" + "  \n".join(map(escaped, sheet.notes)) + "\n" if sheet.notes else "")


def _headings(sheet: Sheet, between: str) -> list[str]:
    """Where no heading can span columns, a group's stands above its first one."""
    before = [None, *(column.group for column in sheet.columns)]
    return [
        f"{column.group}{between}{column.heading}" if column.group and column.group != group else column.heading
        for column, group in zip(sheet.columns, before, strict=False)
    ]


def _marked_down(cell: Cell) -> str:
    text = escaped(cell.text)
    text = f"**{text}**" if cell.strong else text
    return f"{text} <sup>{cell.mark}</sup>" if cell.mark else text


def escaped(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line.replace("\\", r"\\").replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


def latex(sheet: Sheet) -> str:
    r"""A `table` environment with booktabs' rules and the footnotes below; wants `\usepackage{booktabs,adjustbox}`."""
    spec = "".join("l" if column.words else "r" for column in sheet.columns)
    lines = [r"\begin{table}[t]", r"\centering", rf"\caption{{{_texed(sheet.title)}}}", rf"\label{{tab:{sheet.key}}}"]
    lines += [r"\begin{adjustbox}{max width=\linewidth}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
    lines += _group_lines(sheet.groups)
    lines += [_line(_texed(column.heading) for column in sheet.columns), r"\midrule"]
    for pinned, rows in groupby(sheet.rows, key=lambda row: row.pinned):
        lines += [_line(_in_tex(row[column.key]) for column in sheet.columns) for row in rows]
        lines += [r"\midrule"] if pinned else []
    if lines[-1] == r"\midrule":
        lines.pop()
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}"]
    if sheet.notes:
        lines += [r"\par\smallskip", r"\parbox{\linewidth}{\footnotesize"]
        lines += [_texed(note) + r"\par" for note in sheet.notes] + ["}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _group_lines(groups: Sequence[tuple[str, int]]) -> list[str]:
    heads, rules, place = [], [], 1
    for group, count in groups:
        heads.append(rf"\multicolumn{{{count}}}{{c}}{{{_texed(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{place}-{place + count - 1}}}")
        place += count
    return [_line(heads), " ".join(rules)] if groups else []


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _in_tex(cell: Cell) -> str:
    text = _texed(cell.text)
    text = rf"\textbf{{{text}}}" if cell.strong else text
    return f"{text}$^{{{cell.mark}}}$" if cell.mark else text


def _texed(text: str) -> str:
    minus = re.sub(r"(?<![\w)])-(?=\d)", "−", " ".join(text.split()))  # a hyphen before a number is a minus
    return "".join(_LATEX.get(character, character) for character in minus)


@lru_cache
def environment() -> jinja2.Environment:
    """Templates of this folder; everything they are given is escaped, and a name that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("potstill", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html(sheets: Sequence[Sheet], title: str, notes: Sequence[str] = ()) -> str:
    """A page of tables that a click on a heading sorts; it needs no network."""
    page = environment().get_template("tables.html.jinja")
    return page.render(sheets=sheets, title=title, notes=notes, vega="")
