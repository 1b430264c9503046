"""A table that does not know where it is shown: columns, rows of cells, footnotes. `export` draws it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column: its key in the rows, its heading, and how early it goes when the terminal is narrow.

    Neighbours of one `group` stand below a common heading (a pair of networks).
    """

    key: str
    heading: str
    goes: int | None = None  # 1 goes first; None stays
    words: bool = False  # aligned left
    group: str = ""


@dataclass(frozen=True)
class Cell:
    """A text, and what a reader sorts by where that is not the text."""

    text: str = NOTHING
    value: float | None = None
    tone: str = ""  # a verdict: better, worse, equivalent, undecided, not powered
    mark: str = ""  # the letter of a footnote
    strong: bool = False


EMPTY = Cell()


@dataclass(frozen=True)
class Row:
    """A line of a table; `method` is what a reader hides and shows, a `pinned` row stays on top when sorted."""

    cells: Mapping[str, Cell]
    method: str = ""
    pinned: bool = False

    def __getitem__(self, key: str) -> Cell:
        return self.cells.get(key, EMPTY)


@dataclass(frozen=True)
class Note:
    """A footnote, and the column or the cells' mark without which it goes."""

    text: str
    column: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table with a title and footnotes. `key` is a short name for links and labels."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[Note, ...] = ()

    @property
    def notes(self) -> list[str]:
        """The footnotes of what is shown."""
        shown = {column.key for column in self.columns}
        marks = {row[key].mark for row in self.rows for key in shown}
        return [
            note.text
            for note in self.footnotes
            if (not note.column or note.column in shown) and (not note.mark or note.mark in marks)
        ]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The common headings from left to right, each with how many columns it spans; nothing where there are none."""
        found = [(group, len(list(members))) for group, members in groupby(self.columns, key=lambda c: c.group)]
        return found if any(group for group, _ in found) else []

    def used(self) -> "Sheet":
        """Without the columns that no row has anything for."""
        return self.only(lambda column: any(row[column.key].text != NOTHING for row in self.rows))

    def only(self, keep: Callable[[Column], bool]) -> "Sheet":
        return replace(self, columns=tuple(column for column in self.columns if keep(column)))


def number(value: float | None, digits: int, *, sign: bool = False, tone: str = "") -> Cell:
    """A number with thousands separated; no negative zero.

    >>> number(-0.001, 2, sign=True).text, number(1234, 0).text, number(None, 1).text
    ('+0.00', '1,234', '–')
    """
    if value is None:
        return EMPTY
    return Cell(f"{value:{'+' if sign else ''}z,.{digits}f}", value, tone)


def spread(mean: float, std: float | None, digits: int = 2, *, n: int | None = None, strong: bool = False) -> Cell:
    """Mean ± standard deviation, the latter where there is one, and the number of values where it is given.

    >>> spread(70.123, 0.4, n=5).text, spread(70.123, None).text
    ('70.12 ± 0.40 (5)', '70.12')
    """
    text = f"{mean:.{digits}f}" if std is None else f"{mean:.{digits}f} ± {std:.{digits}f}"
    return Cell(text if n is None else f"{text} ({n})", mean, strong=strong)


def interval(mean: float, low: float | None, high: float | None, tone: str = "", digits: int = 2) -> Cell:
    """A difference and its interval, in the tone of its verdict."""
    return Cell(difference_text(mean, low, high, digits), mean, tone)


def difference_text(mean: float, low: float | None, high: float | None, digits: int = 2) -> str:
    """A difference with its sign, and its interval where there is one.

    >>> difference_text(0.5, 0.1, 0.9), difference_text(-0.001, None, None)
    ('+0.50 [0.10, 0.90]', '+0.00')
    """
    text = f"{mean:+z.{digits}f}"
    return text if low is None or high is None else f"{text} [{low:z.{digits}f}, {high:z.{digits}f}]"


def seconds(value: float | None) -> Cell:
    return number(value, 1 if value is not None and value < 100 else 0)


def seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


class Marks:
    """Letters for sources of numbers, in order of their first use.

    >>> marks = Marks()
    >>> marks.cell({"value": 73.26, "source": "a README"}), marks.notes()[0].text
    (Cell(text='73.26', value=73.26, tone='', mark='a', strong=False), 'a: published, not ours; a README.')
    """

    def __init__(self):
        self._sources: list[str] = []

    def cell(self, published: Mapping[str, Any] | None) -> Cell:
        """A published number with its letter; nothing where there is none."""
        if published is None:
            return EMPTY
        source = published["source"]
        if source not in self._sources:
            self._sources.append(source)
        return replace(number(published["value"], 2), mark=_letter(self._sources.index(source)))

    def notes(self) -> list[Note]:
        letters = [_letter(place) for place in range(len(self._sources))]
        found = zip(letters, self._sources, strict=True)
        return [Note(f"{letter}: published, not ours; {source}.", mark=letter) for letter, source in found]


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else f"a{place}"
