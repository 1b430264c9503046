"""A batch of encoded images as pixels: what a worker process does. Each image is a function of (salts, index) alone.

Letters in shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from potstill.data.augment import changed, resized_crops
from potstill.data.decode import as_array, opened, pixels, reason, shape, upright
from potstill.data.raw import Item, Raw
from potstill.data.spec import RESIZED

MIDDLE = 7 / 8
"""Part of the shorter side that evaluation on ImageNet sees: 224 of 256 pixels."""


_ADVICE = " (--data.skip-unreadable leaves unreadable images out)"


class Unreadable(ValueError):
    """An image that cannot be read; the message names it. Its one argument is the message, so that it can travel."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Rows of a split as pictures of one size, as they are evaluated or as they are augmented."""

    raw: Raw
    channels: int
    height: int
    width: int
    augment: str

    def __call__(
        self, rows: np.ndarray, number: int | None = None, seed: int = 0, pool: Executor | None = None
    ) -> Tensor:
        """uint8 `[B, C, H, W]` of these rows in view `number` of the augmentation, or as they are evaluated (None).

        Raises:
            Unreadable: an image cannot be read. It says which one, and why.
        """
        encoded = self._encoded(rows)
        random = number is not None and self.augment == RESIZED
        index, salts = torch.from_numpy(rows), (seed, 0 if number is None else number)
        if random:
            # All headers first: where the crops lie is then computed for the whole batch at once.
            images = self._each(opened, rows, encoded, None)
            sizes = torch.tensor([shape(image)[:2] for image in images])
            boxes, mirrored = resized_crops(sizes[:, 1], sizes[:, 0], index, *salts)
            chosen = list(zip(images, boxes.tolist(), mirrored.tolist(), strict=True))
            arrays = self._each(lambda work: self._cropped(*work), rows, chosen, pool)
        else:
            arrays = self._each(self._whole, rows, encoded, pool)
        found = torch.from_numpy(np.stack(arrays))
        return found if number is None or random else changed(found, index, self.augment, *salts)

    def _encoded(self, rows: np.ndarray) -> list[Item]:
        try:
            items = self.raw.read(rows)
        except (ValueError, OSError) as error:
            raise Unreadable(str(error)) from error
        return self._each(lambda item: item.read_bytes() if isinstance(item, Path) else item, rows, items, None)

    def _each(self, work: Callable, rows: np.ndarray, items: Sequence, pool: Executor | None) -> list:
        def attempt(item: Any) -> Any:
            try:
                return work(item)
            except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
                return error

        found = list(map(attempt, items) if pool is None else pool.map(attempt, items))
        for row, outcome in zip(rows.tolist(), found, strict=True):
            if isinstance(outcome, Exception):
                raise Unreadable(f"{self.raw.where(row)} cannot be read: {reason(outcome)}{_ADVICE}") from outcome
        return found

    def _whole(self, item: Item) -> np.ndarray:
        with opened(item) as image:
            if self.augment == RESIZED:
                return as_array(middle(upright(image, self.channels), self.height))
            return pixels(image, self.channels, (self.height, self.width))

    def _cropped(self, image: Image.Image, box: Sequence[int], mirrored: bool) -> np.ndarray:
        with image:
            return as_array(crop(image, self.channels, box, mirrored, self.height))


def middle(image: Image.Image, size: int, part: float = MIDDLE) -> Image.Image:
    """The shorter side resized to `size` / `part` pixels, and the centre square of it: torchvision's evaluation."""
    width, height = image.size
    shorter = int(size / part)
    wide = width >= height
    scaled = (shorter * width // height, shorter) if wide else (shorter, shorter * height // width)
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return image.crop((left, top, left + size, top + size))


def crop(image: Image.Image, channels: int, box: Sequence[int], mirrored: bool, size: int) -> Image.Image:
    """The part of an unread image inside `box` (left, top, right, bottom), at `size` x `size`.

    A JPEG of which the part is at least twice as large as needed is decoded at a half, a quarter or an eighth.
    """
    width, height, _ = shape(image)
    lying = (width, height) != image.size
    smaller = min(box[2] - box[0], box[3] - box[1]) // size
    if smaller > 1:
        wanted = (width // smaller, height // smaller)
        image.draft(None, (wanted[1], wanted[0]) if lying else wanted)  # does nothing but for JPEG
    image = upright(image, channels)
    across, down = image.width / width, image.height / height
    inside = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=inside)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
