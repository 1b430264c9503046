"""Blur, zoom, smear and sample batches of images, and draw random numbers that belong to an image.

What `potstill.evaluation.corruptions` is made of. Letters in shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from potstill.hashing import hash_index, uniform

Edge = Callable[[Tensor, int], Tensor]
"""From places that may lie outside of 0 … n - 1 to those of the pixels that stand there."""


def nearest(place: Tensor, n: int) -> Tensor:
    """a a | a b c | c c"""
    return place.clamp(0, n - 1)


def symmetric(place: Tensor, n: int) -> Tensor:
    """b a | a b c | c b, what scipy calls `reflect`."""
    inside = place % (2 * n)
    return torch.minimum(inside, 2 * n - 1 - inside)


def mirrored(place: Tensor, n: int) -> Tensor:
    """c b | a b c | b a, what OpenCV calls `BORDER_REFLECT_101`."""
    if n == 1:
        return torch.zeros_like(place)
    inside = place % (2 * n - 2)
    return torch.minimum(inside, 2 * n - 2 - inside)


@dataclass(frozen=True)
class Draws:
    """Random numbers for images: functions of an image's `index`, of `salts`, and of what they are drawn for."""

    index: Int64[Tensor, " B"]
    salts: tuple[int | str, ...]

    def uniform(self, what: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "B ..."]:
        start = hash_index(self.index, *self.salts, what)
        places = start[:, None] + torch.arange(math.prod(shape), device=start.device)
        return (low + (high - low) * uniform(places, "draw")).view(-1, *shape)

    def normal(self, what: str, *shape: int) -> Float[Tensor, "B ..."]:
        # Half a step keeps the quantile of 0 finite.
        return torch.special.ndtri(self.uniform(what, *shape) + 2.0**-54)


def blurred(x: Float[Tensor, "B C H W"], sigma: float, edge: Edge, truncate: float = 4.0) -> Tensor:
    """Gaussian blur with a kernel of `truncate` standard deviations to each side, as scipy's `gaussian_filter`."""
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return x
    taps = torch.arange(-reach, reach + 1, device=x.device)
    weights = torch.exp(-0.5 * (taps.double() / sigma) ** 2)
    weights = weights / weights.sum()
    height, width = (_spread(weights, taps, n, edge).to(x.dtype) for n in x.shape[2:])
    return height @ x @ width.T


def _spread(weights: Tensor, taps: Tensor, n: int, edge: Edge) -> Float[Tensor, "n n"]:
    """The matrix that takes a weighted sum of neighbours along an axis."""
    places = edge(torch.arange(n, device=taps.device)[:, None] + taps, n)
    return weights.new_zeros(n, n).scatter_add_(1, places, weights.expand(n, -1))


def filtered(x: Float[Tensor, "B C H W"], kernel: Float[Tensor, "k k"], edge: Edge) -> Tensor:
    """Correlation with a square kernel of odd size."""
    reach, (height, width) = len(kernel) // 2, x.shape[2:]
    for axis, n in ((2, height), (3, width)):
        x = x.index_select(axis, edge(torch.arange(-reach, n + reach, device=x.device), n))
    weight = kernel.to(x)[None, None]
    return F.conv2d(x.flatten(0, 1)[:, None], weight).view(*x.shape[:2], height, width)


def zoomed(x: Float[Tensor, "B C H W"], factor: float) -> Tensor:
    """The middle, enlarged to the image's size; the cut is in whole pixels."""
    cut = [math.ceil(n / factor) for n in x.shape[2:]]
    top, left = ((n - c) // 2 for n, c in zip(x.shape[2:], cut, strict=True))
    size = [round(c * factor) for c in cut]
    large = F.interpolate(x[:, :, top : top + cut[0], left : left + cut[1]], size, mode="bilinear", align_corners=True)
    up, aside = ((s - n) // 2 for s, n in zip(size, x.shape[2:], strict=True))
    return large[:, :, up : up + x.shape[2], aside : aside + x.shape[3]]


def smeared(x: Float[Tensor, "B C H W"], radius: int, sigma: float, degrees: Float[Tensor, " B"]) -> Tensor:
    """Motion blur as ImageMagick's: half a Gaussian along a line, in whole pixels, each image at its own angle."""
    taps = torch.arange(2 * radius + 1, dtype=torch.float64, device=x.device)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = (weights / weights.sum()).to(x.dtype)
    angle = torch.deg2rad(degrees.double())[:, None]
    down, right = (torch.ceil(taps * part - 0.5).long() for part in (angle.sin(), angle.cos()))
    height, width = x.shape[2:]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    found = torch.zeros_like(x)
    for tap, weight in enumerate(weights):
        y = nearest(rows + down[:, tap, None], height)
        z = nearest(columns + right[:, tap, None], width)
        found += weight * taken(x, y[:, :, None], z[:, None, :])
    return found


def sampled(x: Float[Tensor, "B C H W"], rows: Tensor, columns: Tensor, edge: Edge) -> Tensor:
    """Bilinear values at fractional places, `rows` and `columns` `[B, H, W]`, like scipy's `map_coordinates`."""
    height, width = x.shape[2:]
    top, left = rows.floor(), columns.floor()
    below, beside = (rows - top).to(x.dtype)[:, None], (columns - left).to(x.dtype)[:, None]
    top, left = top.long(), left.long()
    found = torch.zeros_like(x)
    for step, down in ((0, 1 - below), (1, below)):
        for move, across in ((0, 1 - beside), (1, beside)):
            found += down * across * taken(x, edge(top + step, height), edge(left + move, width))
    return found


def taken(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels at whole places that broadcast to `[B, H, W]`."""
    place = (rows * x.shape[3] + columns).expand(-1, *x.shape[2:]).flatten(1)
    return x.flatten(2).gather(2, place[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def plasma(draws: Draws, height: int, width: int, decay: float) -> Float[Tensor, "B 1 H W"]:
    """A cloud in [0, 1] by the diamond-square algorithm; `decay` is how much calmer each finer step is.

    As in the released code, noise is a uniform number in ±wibble, times wibble, and the map is a torus whose side is
    the next power of two, of which the corner is taken.
    """
    side = 2 ** math.ceil(math.log2(max(height, width, 2)))
    cloud = torch.zeros(len(draws.index), side, side, dtype=torch.float64, device=draws.index.device)
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        corners, n = cloud[:, ::step, ::step], side // step

        def shaken(total: Tensor, what: str, n: int = n, step: int = step, wibble: float = wibble) -> Tensor:
            return total / 4 + wibble * draws.uniform(f"{what}{step}", n, n, low=-wibble, high=wibble)

        square = corners + corners.roll(-1, 1)
        middle = shaken(square + square.roll(-1, 2), "square")
        cloud[:, half::step, half::step] = middle
        across = middle + middle.roll(1, 1) + corners + corners.roll(-1, 2)
        cloud[:, ::step, half::step] = shaken(across, "across")
        down = middle + middle.roll(1, 2) + corners + corners.roll(-1, 1)
        cloud[:, half::step, ::step] = shaken(down, "down")
        step, wibble = half, wibble / decay
    cloud = cloud - cloud.amin((1, 2), keepdim=True)
    return (cloud / cloud.amax((1, 2), keepdim=True))[:, None, :height, :width].float()
