"""Random crop and flip of a whole batch at once, as pure functions of (salts, sample index).

Letters in shapes: N images, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from potstill.hashing import uniform_int


def usual_pad(height: int, width: int) -> tuple[int, int]:
    """Zeros on each side before cropping: 4 of 32, as usual on CIFAR, and in proportion for other sizes.

    >>> usual_pad(32, 32), usual_pad(8, 8), usual_pad(28, 64)
    ((4, 4), (1, 1), (3, 8))
    """
    return height // 8, width // 8


def augmented(
    images: UInt8[Tensor, "N C H W"], index: Int64[Tensor, " B"], augment: str, *salts: int | str
) -> UInt8[Tensor, "B C H W"]:
    """Rows `index` of `images`, augmented as `Data.augment` says: what a loader shows and what a cache is made of."""
    return crop_flip(images, index, *salts, crop="crop" in augment, flip="flip" in augment)


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
    out = images.index_select(0, index)
    if crop:
        height, width = images.shape[2:]
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
