"""Fifteen natural corruptions at five severities, after CIFAR-10-C, for batches of images on any device.

Hendrycks and Dietterich: *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*, ICLR 2019.
arXiv:1903.12261. Every constant is that of the released generator (hendrycks/robustness,
`ImageNet-C/create_c/make_cifar_c.py`), which was written for images of 32 x 32 pixels. Lengths stay in pixels (those of
`elastic` grow with the image, as they do there), so that a smaller image is corrupted more strongly.

Where we differ:
  - Random numbers are a function of (seed, corruption, index), the same for every severity. So the images are not those
    of the published files, but the same for every network, machine and batch size.
  - `frost` lays on five photographs there. They are not part of Potstill: here it lays on a plasma cloud in their five
    mean colours and with the contrast of their 32 x 32 cuts (the colours and 0.06 were measured on the photographs).
  - `motion` and `snow` smear by ImageMagick's formula, in floating point, without ImageMagick.
  - Grey images are grey for each corruption. Intermediate results keep more than 8 bits except in `glass` and `snow`.

Letters in shapes: B images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.evaluation.warps import (
    Draws,
    blurred,
    filtered,
    mirrored,
    nearest,
    plasma,
    sampled,
    smeared,
    symmetric,
    taken,
    zoomed,
)

SEVERITIES = (1, 2, 3, 4, 5)
_LUMA = (0.299, 0.587, 0.114)
_FROSTS = (
    (0.305, 0.585, 0.65),
    (0.787, 0.805, 0.841),
    (0.787, 0.805, 0.841),
    (0.54, 0.599, 0.648),
    (0.441, 0.484, 0.528),
)
_FROST_CONTRAST = 0.06
_NEARLY = 1e-4
"""Of a level: what float32 may lose must not cost a level where values are cut to whole ones."""


def corrupt(
    images: UInt8[Tensor, "B C H W"], index: Int64[Tensor, " B"], name: str, severity: int, seed: int = 0
) -> UInt8[Tensor, "B C H W"]:
    """Corrupt images in one of the ways of `CORRUPTIONS`. `index` says which images they are, for the random numbers.

    Raises ValueError for an unknown name, a severity outside 1 to 5, and images of neither 1 nor 3 channels.

    >>> grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    >>> corrupt(grey, torch.tensor([0]), "brightness", 5)[0, 0, 0, 0]
    tensor(176, dtype=torch.uint8)
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; {did_you_mean(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; expected uint8 [B, C, H, W] with 1 or 3 channels"
        )
    how, constants = CORRUPTIONS[name]
    x = how(images.float() / 255, constants[severity - 1], Draws(index, (seed, "corruption", name)))
    return _levels(x).to(torch.uint8)


def _levels(x: Tensor) -> Tensor:
    """Whole levels 0 to 255, cut as the released code does."""
    return (x.clamp(0, 1) * 255 + _NEARLY).floor()


def _gaussian(x: Tensor, scale: float, draws: Draws) -> Tensor:
    return x + scale * draws.normal("noise", *x.shape[1:]).float()


def _shot(x: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson counts by their quantiles: 256 levels have 256 distributions, laid end to end in one sorted row."""
    level = (x * 255).round().long()
    most = math.ceil(photons + 10 * math.sqrt(photons) + 20)
    rates = torch.arange(256, dtype=torch.float64, device=x.device) / 255 * photons
    counts = torch.arange(1, most + 1, dtype=torch.float64, device=x.device)
    upto = torch.special.gammaincc(counts.expand(256, -1), rates[:, None].expand(-1, most))
    row = (upto + torch.arange(256, device=x.device)[:, None]).flatten()
    place = torch.searchsorted(row, draws.uniform("count", *x.shape[1:]) + level, right=True)
    return (place - level * most).clamp(0, most - 1).float() / photons


def _impulse(x: Tensor, share: float, draws: Draws) -> Tensor:
    hit = draws.uniform("hit", *x.shape[1:]) <= share
    return torch.where(hit, (draws.uniform("salt", *x.shape[1:]) <= 0.5).float(), x)


def _defocus(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    radius, soft = constants
    away = torch.arange(-3, 4, dtype=torch.float64)  # beyond, the disks are empty
    disk = (away[:, None] ** 2 + away**2 <= radius**2).double()
    three = torch.exp(-0.5 * (torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / soft) ** 2)
    three = three / three.sum()
    smooth = torch.nn.functional.conv2d(
        (disk / disk.sum())[None, None], (three[:, None] * three)[None, None], padding=1
    )
    return filtered(x, smooth[0, 0], mirrored)


def _glass(x: Tensor, constants: tuple[float, int, int], draws: Draws) -> Tensor:
    """The released code means to swap neighbours and, through numpy's views, copies: a pixel takes that above, beside
    or diagonally before it, or stays. As it walks from the last pixel to the first, that is one gather."""
    sigma, reach, times = constants
    x = _levels(blurred(x, sigma, nearest)) / 255
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device)[None, :, None]
    columns = torch.arange(width, device=x.device)[None, None, :]
    inside = (rows > reach) & (columns > reach)
    for turn in range(times):
        up, back = (-(draws.uniform(f"{way}{turn}", height, width) < 0.5).long() * inside for way in ("up", "back"))
        x = taken(x, rows + up, columns + back)
    return blurred(x, sigma, nearest)


def _motion(x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
    return smeared(x, *constants, draws.uniform("angle", low=-45, high=45))


def _zoom(x: Tensor, end: float, draws: Draws) -> Tensor:
    factors = np.arange(1, end, 0.01).tolist()
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(x: Tensor, constants: tuple[float, ...], draws: Draws) -> Tensor:
    mean, spread, zoom, threshold, radius, sigma, kept = constants
    flakes = zoomed(mean + spread * draws.normal("flakes", 1, *x.shape[2:]).float(), zoom)
    flakes = _levels(torch.where(flakes < threshold, 0.0, flakes)) / 255
    flakes = smeared(flakes, int(radius), sigma, draws.uniform("angle", low=-135, high=-45))
    light = x if x.shape[1] == 1 else (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    x = kept * x + (1 - kept) * torch.maximum(x, light * 1.5 + 0.5)
    return x + flakes + flakes.rot90(2, (2, 3))


def _frost(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    kept, laid = constants
    which = (draws.uniform("picture") * len(_FROSTS)).long()
    colour = x.new_tensor(_FROSTS)[which][:, :, None, None]
    colour = colour.mean(1, keepdim=True) if x.shape[1] == 1 else colour
    cloud = plasma(draws, *x.shape[2:], 2.0)
    cloud = (cloud - cloud.mean((2, 3), keepdim=True)) / cloud.std((2, 3), keepdim=True)
    return kept * x + laid * (colour + _FROST_CONTRAST * cloud).clamp(0, 1)


def _fog(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    thick, decay = constants
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + thick * plasma(draws, *x.shape[2:], decay)) * most / (most + thick)


def _brightness(x: Tensor, more: float, draws: Draws) -> Tensor:
    """More value at the same hue and saturation: all channels by the same factor, black becomes grey."""
    value = x.amax(1, keepdim=True)
    lit = (value + more).clamp(max=1)
    return torch.where(value > 0, x * lit / value.clamp(min=1e-6), lit)


def _contrast(x: Tensor, kept: float, draws: Draws) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * kept + mean


def _elastic(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """A random affine map of three points, then a smooth random displacement."""
    height, width = x.shape[2:]
    side = min(height, width)
    amount, smooth, shift = (side * share for share in constants)
    middle, reach = x.new_tensor([width // 2, height // 2]).double(), side // 3
    corners = middle + reach * torch.tensor([[1, 1], [1, -1], [-1, -1]], device=x.device)  # (x, y)
    moved = corners + draws.uniform("corners", 3, 2, low=-shift, high=shift)
    ones = torch.ones_like(moved[:, :, :1])
    back = torch.linalg.solve(torch.cat([moved, ones], 2), corners.expand_as(moved))  # [B, 3, 2]: from new to old
    rows, columns = torch.meshgrid(
        torch.arange(height, device=x.device).double(), torch.arange(width, device=x.device).double(), indexing="ij"
    )
    old = torch.stack([columns, rows, torch.ones_like(rows)], 2) @ back[:, None]  # [B, H, W, 2]
    x = sampled(x, old[..., 1], old[..., 0], mirrored)
    push = draws.uniform("push", 2, height, width, low=-1, high=1).float()
    push = amount * blurred(push, smooth, symmetric, 3)
    return sampled(x, rows + push[:, 1], columns + push[:, 0], symmetric)


def _pixelate(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Smaller and back by Pillow's box filter."""
    for axis in (2, 3):
        n = x.shape[axis]
        few = max(int(n * share), 1)
        x = (_box(few, n) @ _box(n, few)).to(x) @ x if axis == 2 else x @ (_box(few, n) @ _box(n, few)).to(x).T
    return x


def _box(source: int, target: int) -> Tensor:
    """`[target, source]`: each new pixel is the mean of the old ones whose centres lie in it, at least the nearest."""
    scale = source / target
    centre = (torch.arange(target, dtype=torch.float64)[:, None] + 0.5) * scale
    away = (torch.arange(source, dtype=torch.float64) + 0.5 - centre) / max(scale, 1.0)
    inside = ((away > -0.5) & (away <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


def _jpeg(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """Through Pillow's codec, image by image: there is no batched one."""
    found = []
    for pixels in (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file)).reshape(pixels.shape))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(x.device).float() / 255


How = Callable[[Tensor, Any, Draws], Tensor]
CORRUPTIONS: dict[str, tuple[How, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (_zoom, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic": (_elastic, ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
"""How, and the constants of the five severities."""
