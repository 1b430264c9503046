"""Random crop and flip of a whole batch at once, as pure functions of (salts, sample index).

Letters in shapes: N images, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from potstill.data.spec import RESIZED
from potstill.hashing import uniform, uniform_int

AREA = (0.08, 1.0)
"""Share of the image that a random resized crop covers (Szegedy et al. 2015; the same in every ImageNet recipe)."""
RATIO = (3 / 4, 4 / 3)
"""Width to height of such a crop."""
TRIES = 10
"""Crops that are drawn before the centre is taken (torchvision's)."""


def usual_pad(height: int, width: int) -> tuple[int, int]:
    """Zeros on each side before cropping: 4 of 32, as usual on CIFAR, and in proportion for other sizes.

    >>> usual_pad(32, 32), usual_pad(8, 8), usual_pad(28, 64)
    ((4, 4), (1, 1), (3, 8))
    """
    return height // 8, width // 8


def augmented(
    images: UInt8[Tensor, "N C H W"], index: Int64[Tensor, " B"], augment: str, *salts: int | str
) -> UInt8[Tensor, "B C H W"]:
    """Rows `index` of `images`, augmented as `Data.augment` says: what a loader shows and what a cache is made of.

    Raises:
        ValueError: an augmentation that needs the images as they were before they were brought to one size.
    """
    return changed(images.index_select(0, index), index, augment, *salts)


def check_in_memory(augment: str) -> None:
    """Raises ValueError for an augmentation that images of one size are too late for."""
    if augment == RESIZED:
        raise ValueError(f"{RESIZED} reads the files at every step; images in memory can be augmented with crop-flip")


def changed(
    batch: UInt8[Tensor, "B C H W"], index: Int64[Tensor, " B"], augment: str, *salts: int | str
) -> UInt8[Tensor, "B C H W"]:
    """The same of images that are already a batch; `index` says which ones they are."""
    check_in_memory(augment)
    return _changed(batch, index, None, "crop" in augment, "flip" in augment, *salts)


def crop_flip(
    images: UInt8[Tensor, "N C H W"],
    index: Int64[Tensor, " B"],
    *salts: int | str,
    pad: int | tuple[int, int] | None = None,
    crop: bool = True,
    flip: bool = True,
) -> UInt8[Tensor, "B C H W"]:
    """Rows `index` of `images`, each shifted at random inside a frame of zeros and mirrored half of the time.

    The shift and the mirroring of a sample depend on `salts` (say seed and epoch) and on its index alone: not
    on the batch, the order or the rank. `pad` is the width of the frame (rows, columns), `usual_pad` where
    left out. Nothing waits for the device.

    >>> images = torch.ones(4, 1, 8, 8, dtype=torch.uint8)
    >>> crop_flip(images, torch.tensor([2, 0]), 0, 1).shape
    torch.Size([2, 1, 8, 8])
    """
    return _changed(images.index_select(0, index), index, pad, crop, flip, *salts)


def _changed(
    out: Tensor, index: Tensor, pad: int | tuple[int, int] | None, crop: bool, flip: bool, *salts: int | str
) -> Tensor:
    if crop:
        height, width = out.shape[2:]
        out = _crop(out, index, usual_pad(height, width) if pad is None else pad, *salts)
    if flip:
        # Choosing by bits: torch.where is eight times slower for bytes and a mask that broadcasts.
        mirrored = uniform_int(index, 2, *salts, "flip").to(torch.uint8) * 255
        out = out ^ ((out ^ out.flip(-1)) & mirrored[:, None, None, None])
    return out


def _crop(batch: Tensor, index: Tensor, pad: int | tuple[int, int], *salts: int | str) -> Tensor:
    down, across = (pad, pad) if isinstance(pad, int) else pad
    if down == 0 and across == 0:
        return batch
    height, width = batch.shape[2:]
    place = uniform_int(index, (2 * down + 1) * (2 * across + 1), *salts, "crop")
    row, column = place // (2 * across + 1), place % (2 * across + 1)
    framed = F.pad(batch, (across, across, down, down))
    # Every window of every image as a view without a copy; indexing then copies one window per image.
    windows = framed.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(batch), device=batch.device), :, row, column]


def resized_crops(
    height: Int64[Tensor, " B"], width: Int64[Tensor, " B"], index: Int64[Tensor, " B"], *salts: int | str
) -> tuple[Int64[Tensor, "B 4"], Bool[Tensor, " B"]]:
    """Boxes (left, top, right, bottom) inside images of these sizes, and whether to mirror: ImageNet's augmentation.

    A box covers a share of the image that is uniform in `AREA`, with a ratio of its sides that is log-uniform in
    `RATIO`; the first of `TRIES` that fits is taken, else the largest centred box whose ratio is allowed. As in
    torchvision, but each a function of `salts` and the sample's index.
    """
    draw = torch.stack([index] * TRIES)
    turn = torch.arange(TRIES)[:, None].expand_as(draw)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * uniform(draw * TRIES + turn, *salts, "area"))
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = (low + (high - low) * uniform(draw * TRIES + turn, *salts, "ratio")).exp()
    across, down = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (across > 0) & (across <= width) & (down > 0) & (down <= height)
    first = fits.byte().argmax(0)[None]
    found = fits.any(0)
    # The fallback: as much of the image as a ratio in the allowed range leaves.
    widest, tallest = (
        (height * RATIO[1]).round().long().minimum(width),
        (width / RATIO[0]).round().long().minimum(height),
    )
    across = torch.where(found, across.gather(0, first)[0], widest.clamp(min=1))
    down = torch.where(found, down.gather(0, first)[0], tallest.clamp(min=1))
    free = torch.stack([width - across, height - down])
    place = torch.stack([uniform(index, *salts, "left"), uniform(index, *salts, "top")])
    left, top = torch.where(found, (place * (free + 1)).long().minimum(free), free // 2)
    mirrored = uniform_int(index, 2, *salts, "flip").bool()
    return torch.stack([left, top, left + across, top + down], 1), mirrored
