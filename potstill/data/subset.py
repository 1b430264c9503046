"""The part of the training images that students see, where the recipe gives them fewer than the teacher had."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from potstill.data.loaders import Split
from potstill.data.spec import Data
from potstill.hashing import hash_index


@dataclass(frozen=True)
class Lesson:
    """`seen` are all of the students' images; the first of them are `trained` on, the others are `watched`.

    An index of a training sample is its place in `seen`, and so in `trained`.
    """

    seen: Split
    trained: Split
    watched: Split | None = None

    @property
    def note(self) -> str:
        """What a user should know of it."""
        aside = "" if self.watched is None else f", {len(self.watched):,} of which are set aside and watched"
        return f"students see {len(self.seen):,} training images{aside}"


def lesson(images: Split, data: Data, count: int | None = None) -> Lesson:
    """`count` of the images (all where left out) in an order that `data.data_seed` says, and of these the last
    `data.watched` set aside.

    A smaller `count` is a part of a larger one. Nothing is balanced by class, as in CKD's released code.

    Raises:
        ValueError: more images than there are, or too few to set some aside.
    """
    if count is None and data.watched is None:
        return Lesson(images, images)
    count = len(images) if count is None else count
    if count > len(images):
        raise ValueError(
            f"students cannot see {count} training images (data.subset, teacher.budget): {images.name} has "
            f"{len(images)}"
        )
    order = torch.sort(hash_index(torch.arange(len(images)), data.data_seed, "subset"), stable=True).indices
    seen = images.take(order[:count], f"{images.split}, {count} of them")
    if data.watched is None:
        return Lesson(seen, seen)
    aside = math.ceil(round(count * data.watched, 6))  # rounded: 0.2 of 500 must not be 101
    if aside >= count:
        raise ValueError(f"data.watched={data.watched} of {count} images leaves none to train on")
    rows = torch.arange(count)
    trained, watched = rows[: count - aside], rows[count - aside :]
    return Lesson(seen, seen.take(trained, "train, the rest"), seen.take(watched, "train, watched"))
