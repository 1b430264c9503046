"""Classification with a second view of every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from potstill.data.resident import Resident
from potstill.tasks.classify import Classify
from potstill.types import PLAIN, Batch, Progress, Source, View

OTHER = "other"
"""Name of a view in which images are augmented independently of `main`."""
Salts = tuple[int | str, ...]
Make = Callable[[Batch, Mapping[str, Source], Salts], View]
"""Makes a view of a batch; the sources are there for what asks a network. Its choices are a function of the salts (they
change at every step) and of the samples' indices."""


class SecondView(Classify):
    """Adds the view `name` that `make` makes of a batch. (`augmented.py`: more that can make one.)"""

    def __init__(self, make: Make, name: str):
        self.make, self.name = make, name

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        return (batch.with_view(self.name, self.make(batch, sources, (seed, self.name, progress.step))),)


@dataclass(frozen=True)
class Again:
    """The same images as in `main`, augmented anew.

    The augmentation is a function of (the loader's view seed, the number of the view, the sample's index), as that of
    the first is, and drawn independently of it.
    """

    loader: Resident
    augment: str

    def __call__(self, batch: Batch, sources: Mapping[str, Source], salts: Salts) -> View:
        main = batch.main
        number = PLAIN if main.number is None else main.number
        inputs = self.loader.again(main.index, number, self.augment, OTHER)
        # No number of its own: no cache holds this view.
        return View(inputs, main.index, main.label, main.mask, main.extras)
