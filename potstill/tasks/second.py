"""Classification with a second, independently augmented view of every image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from potstill.data.resident import Resident
from potstill.tasks.classify import Classify
from potstill.types import PLAIN, Batch, Progress, Source, View

OTHER = "other"
"""Name of the second view."""


class SecondView(Classify):
    """Adds the view `other`: the same images as in `main`, augmented anew.

    The augmentation is a function of (the loader's view seed, the number of the view, the sample's index), as that of
    the first is, and drawn independently of it.
    """

    def __init__(self, loader: Resident, augment: str):
        self.loader, self.augment = loader, augment

    def prepare(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Iterable[Batch]:
        main = batch.main
        number = PLAIN if main.number is None else main.number
        inputs = self.loader.again(main.index, number, self.augment, OTHER)
        # No number of its own: no cache holds this view.
        return (batch.with_view(OTHER, View(inputs, main.index, main.label, main.mask, main.extras)),)
