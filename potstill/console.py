"""What a person sees while something runs: lines, progress bars, tables. Answers go to stdout, all else to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from potstill.types import Progress as Steps


@dataclass
class Talk:
    """Says things to a person, or nothing when `quiet`."""

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(escape(text), highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def _progress(self, *columns: ProgressColumn, shown: bool = True) -> Progress:
        live = shown and not self.quiet and moving(self.console)
        return Progress(*columns, console=self.console, disable=not live, transient=True)

    @contextmanager
    def counted(self, name: str, total: int, shown: bool = True) -> Iterator[Callable[..., None]]:
        """One bar that grows with every call of what is yielded, by one or by as much as is given."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with self._progress(*columns, shown=shown) as progress:
            task = progress.add_task(escape(name), total=total)
            yield lambda done=1: progress.advance(task, done)

    @contextmanager
    def bars(self, cells: int) -> Iterator[Callable[[str, int], Callable[[Steps], None]]]:
        """Two bars: all cells, and the steps of the current one.

        Yields `begin(name, steps)`, which returns the function to call after each step.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with self._progress(*columns) as progress:
            whole = progress.add_task("networks", total=cells, completed=-1) if cells > 1 else None
            current = progress.add_task("", total=1)

            def begin(name: str, steps: int) -> Callable[[Steps], None]:
                progress.reset(current, description=escape(name), total=steps)
                if whole is not None:
                    progress.advance(whole)
                return lambda done: progress.update(current, completed=done.step)

            yield begin


def moving(console: Console) -> bool:
    """Whether a bar can move there. Elsewhere, in a file say, Rich leaves an empty line for each."""
    return console.is_interactive or console.is_jupyter


def spanned(seconds: float) -> str:
    """A time as people say it.

    >>> spanned(0.4), spanned(95), spanned(8000), spanned(200_000)
    ('0.4 s', '1 min 35 s', '2 h 13 min', '2 d 8 h')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
