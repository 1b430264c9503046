"""Operations on a batch of uint8 images that AutoAugment is made of: colours, tables of values, affine maps.

Each takes and gives uint8 `[B, C, H, W]` and is what torchvision does to a tensor, whose rounding it keeps; images of a
batch are changed alike, each by its own statistics. Nothing waits for the device.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

Images = UInt8[Tensor, "B C H W"]
LUMA = (0.2989, 0.587, 0.114)
"""Red, green and blue in grey."""


def brightness(images: Images, factor: float) -> Images:
    """0: black, 1: as it was."""
    return _between(torch.zeros((), device=images.device), images, factor)


def colour(images: Images, factor: float) -> Images:
    """0: grey, 1: as it was. Grey images stay."""
    return images if images.shape[1] == 1 else _between(_grey(images), images, factor)


def contrast(images: Images, factor: float) -> Images:
    """0: the image's mean grey everywhere, 1: as it was."""
    return _between(_grey(images).float().mean((1, 2, 3), keepdim=True), images, factor)


def sharpness(images: Images, factor: float) -> Images:
    """0: smoothed, 1: as it was. The pixels of the edge stay."""
    height, width = images.shape[2:]
    if height <= 2 or width <= 2:
        return images
    whole = images.to(torch.int16)
    rows = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    # Pillow's filter SMOOTH: the pixel counts five times and its eight neighbours once; then the nearest 13th.
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[:, :, 1:-1, 1:-1]
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = ((2 * smooth + 13) // 26).to(torch.uint8)
    return _between(blurred, images, factor)


def posterize(images: Images, bits: int) -> Images:
    """Only the first so many of 8 bits."""
    return images & (256 - 2 ** (8 - bits)) if bits else torch.zeros_like(images)


def solarize(images: Images, threshold: float) -> Images:
    """Values of at least `threshold` are inverted."""
    return torch.where(images >= threshold, invert(images), images)


def invert(images: Images) -> Images:
    return 255 - images


def autocontrast(images: Images) -> Images:
    """Each channel stretched to [0, 255]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
    flat = low == high
    scale = torch.where(flat, 1.0, 255 / torch.where(flat, 1.0, high - low))
    return ((images - torch.where(flat, 0.0, low)) * scale).clamp(0, 255).to(torch.uint8)


def equalize(images: Images) -> Images:
    """Each channel with values spread so that all are about as frequent."""
    values = images.flatten(2).flatten(0, 1).long()
    counts = torch.zeros(len(values), 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    # All pixels but those of the largest value, shared out over 255 steps.
    step = (values.shape[1] - counts.gather(1, values.amax(1, keepdim=True))) // 255
    table = (counts.cumsum(1) + step // 2) // step.clamp(min=1)
    table = F.pad(table, (1, 0))[:, :-1].clamp(0, 255)
    spread = table.gather(1, values).to(torch.uint8).view(images.shape)
    return torch.where(step.view(*images.shape[:2], 1, 1) == 0, images, spread)


def shear(images: Images, across: float = 0.0, down: float = 0.0) -> Images:
    """Row y is moved by `across` * y pixels, column x by `down` * x, from the upper left corner; black comes in."""
    height, width = images.shape[2:]
    x, y = _places(width), _places(height)
    return _taken(images, x[None, :] + across * y[:, None], y[:, None] + down * x[None, :])


def translate(images: Images, across: int = 0, down: int = 0) -> Images:
    """So many pixels to the right and down; black comes in."""
    height, width = images.shape[2:]
    x, y = _places(width), _places(height)
    return _taken(images, (x - across)[None, :].expand(height, -1), (y - down)[:, None].expand(-1, width))


def rotate(images: Images, degrees: float) -> Images:
    """Counter-clockwise around the centre; black comes in."""
    height, width = images.shape[2:]
    x, y = _places(width)[None, :] - width / 2, _places(height)[:, None] - height / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _taken(images, cos * x - sin * y + width / 2, sin * x + cos * y + height / 2)


def _between(start: Tensor, images: Images, factor: float) -> Images:
    """`start` for 0, the images for 1, and beyond them for more."""
    return (factor * images + (1 - factor) * start).clamp(0, 255).to(torch.uint8)


def _grey(images: Images) -> UInt8[Tensor, "B 1 H W"]:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).to(torch.uint8)[:, None]


def _places(size: int) -> Float[Tensor, " size"]:
    """Centres of pixels; on the host, from where only whole places go to the device."""
    return torch.arange(size, dtype=torch.float64) + 0.5


def _taken(images: Images, x: Float[Tensor, "H W"], y: Float[Tensor, "H W"]) -> Images:
    """For each pixel the one of the image in which that point lies; black where there is none."""
    height, width = images.shape[2:]
    column, row = x.floor().long(), y.floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten().to(images.device)
    found = images.flatten(2).index_select(2, place).view(images.shape)
    return found * inside.to(images.device)
