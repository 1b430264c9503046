"""Mixup, CutMix and Cutout of a whole batch at once, as pure functions of (salts, sample index).

Every function takes images `[B, C, H, W]`, uint8 or floating point, the `index` of their rows in the data set, and
salts (say seed and step), from which alone all random choices are hashed: equal on every machine, and nothing waits for
the device. What is drawn once for the whole batch is the same on every rank. Letters in shapes: B batch, C channels,
H height, W width.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from potstill.hashing import hash_index, uniform, uniform_int

Per = Literal["batch", "sample"]
"""Whether a choice is made once for the whole batch (the released codes' way) or for every row."""
TRIES = 16
"""Candidates for each draw of a gamma variable; all are refused with a probability below 1e-20."""


class Mixed(NamedTuple):
    """Row i is made of image i and of image `partner[i]`; `share[i]` of it is image i's own.

    `partner` is a permutation of the rows. The loss of mixup and CutMix on labels is
    `share * loss(label) + (1 - share) * loss(label[partner])`.
    """

    input: Tensor
    partner: Int64[Tensor, " B"]
    share: Float64[Tensor, " B"]


def mixup(
    input: Tensor, index: Int64[Tensor, " B"], *salts: int | str, alpha: float = 0.2, per: Per = "batch"
) -> Mixed:
    r"""$x'_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}$, with $\lambda \sim Beta(\alpha, \alpha)$ (Zhang et al. 2018).

    uint8 images come back as float32 in [0, 1], which `Preprocess` takes: mixing them and then normalising is the same
    as mixing normalised ones, and nothing is rounded.

    Raises:
        ValueError: input that is no batch of images, or an `alpha` that is not positive.

    >>> mixed = mixup(torch.tensor([0, 255]).to(torch.uint8).view(2, 1, 1, 1), torch.tensor([7, 8]), 0, "step 1")
    >>> mixed.input.dtype, sorted(mixed.partner.tolist())
    (torch.float32, [0, 1])
    """
    _check("mixup", input)
    share = beta(_rows(index, per), alpha, *salts, "mixup").expand(len(index))
    partner = shuffled(index, *salts, "mixup")
    real = input.float() / 255 if input.dtype == torch.uint8 else input
    own = share.to(real.dtype)[:, None, None, None]
    return Mixed(own * real + (1 - own) * real[partner], partner, share)


def cutmix(
    input: Tensor, index: Int64[Tensor, " B"], *salts: int | str, alpha: float = 1.0, per: Per = "batch"
) -> Mixed:
    r"""A box of image $\pi(i)$ pasted into image i at the same place (Yun et al. 2019).

    $\lambda \sim Beta(\alpha, \alpha)$, the sides of the box are $\sqrt{1 - \lambda}$ of the image's, its centre is
    uniform, and what reaches over the edge is cut off. `share` is the area that is left of image i. The dtype stays.

    Raises:
        ValueError: input that is no batch of images, or an `alpha` that is not positive.
    """
    _check("cutmix", input)
    height, width = input.shape[2:]
    rows = _rows(index, per)
    side = (1 - beta(rows, alpha, *salts, "cutmix")).sqrt()
    box = _box(rows, height, width, (side * height).long(), (side * width).long(), *salts, "cutmix")
    partner = shuffled(index, *salts, "cutmix")
    share = 1 - box.double().mean((1, 2))
    return Mixed(torch.where(box[:, None], input[partner], input), partner, share.expand(len(index)))


def cutout(
    input: Tensor,
    index: Int64[Tensor, " B"],
    *salts: int | str,
    side: int,
    fill: float | tuple[float, ...] = 0.0,
    per: Per = "batch",
) -> Tensor:
    """A square hole of `side` pixels, its centre anywhere, in every image (DeVries and Taylor 2017).

    `fill` is the colour of the hole, one value or one per channel, in the images' own units. Cutting a normalised image
    out to 0, as is usual, is to fill with the mean.

    Raises:
        ValueError: input that is no batch of images, a `side` below 1, or colours for another number of channels.
    """
    _check("cutout", input)
    if side < 1:
        raise ValueError(f"cutout: the hole must be at least 1 pixel wide, got side={side}")
    colours = fill if isinstance(fill, tuple) else (fill,)
    if len(colours) not in (1, input.shape[1]):
        raise ValueError(f"cutout: fill has {len(colours)} values, but the images have {input.shape[1]} channel(s)")
    height, width = input.shape[2:]
    rows = _rows(index, per)
    length = torch.full_like(rows, side)
    hole = _box(rows, height, width, length, length, *salts, "cutout")
    value = torch.tensor(colours, dtype=torch.float64)
    value = (value if input.is_floating_point() else value.round()).to(input.device, input.dtype)
    return torch.where(hole[:, None], value[:, None, None], input)


def shuffled(index: Int64[Tensor, " B"], *salts: int | str) -> Int64[Tensor, " B"]:
    """A permutation of the rows; a row may stay where it is."""
    return hash_index(index, *salts, "partner").argsort(stable=True)


def beta(index: Int64[Tensor, " B"], alpha: float, *salts: int | str) -> Float64[Tensor, " B"]:
    """A number in [0, 1] from Beta(alpha, alpha) for each entry of `index`."""
    if not alpha > 0:
        raise ValueError(f"Beta(alpha, alpha) needs a positive alpha, got {alpha}")
    if alpha == 1:
        return uniform(index, *salts, "beta")
    # Of two gamma variables; their logarithms, because for a small alpha the variables themselves underflow.
    one, other = (_log_gamma(index, alpha, *salts, "beta", which) for which in range(2))
    return (one - other).sigmoid()


def _log_gamma(index: Tensor, alpha: float, *salts: int | str) -> Tensor:
    """Logarithm of a Gamma(alpha) variable: Marsaglia and Tsang 2000, raised by one and boosted back."""
    turn = torch.arange(TRIES, device=index.device)[:, None]
    draw = index * TRIES + turn
    d = alpha + 1 - 1 / 3
    radius = (-2 * _log_uniform(draw, *salts, "radius")).sqrt()
    normal = radius * (2 * math.pi * uniform(draw, *salts, "angle")).cos()  # Box and Muller
    cube = (1 + normal / math.sqrt(9 * d)) ** 3
    log_cube = cube.clamp(min=torch.finfo(cube.dtype).tiny).log()
    accepted = _log_uniform(draw, *salts, "accept") < normal.square() / 2 + d * (1 - cube + log_cube)
    first = (accepted & (cube > 0)).byte().argmax(0)[None]
    return log_cube.gather(0, first)[0] + math.log(d) + _log_uniform(index, *salts, "boost") / alpha


def _log_uniform(index: Tensor, *salts: int | str) -> Tensor:
    return (uniform(index, *salts) + 2.0**-54).log()  # never the logarithm of 0


def _box(rows: Tensor, height: int, width: int, down: Tensor, across: Tensor, *salts: int | str) -> Tensor:
    """`[b, H, W]`, True inside boxes of these sizes around uniform centres, cut off at the edges."""
    inside = []
    for size, length, name in ((height, down, "row"), (width, across, "column")):
        centre, place = uniform_int(rows, size, *salts, name), torch.arange(size, device=rows.device)
        half = length // 2
        inside.append((place >= (centre - half)[:, None]) & (place < (centre + half)[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def _rows(index: Tensor, per: Per) -> Tensor:
    """What choices are hashed from beside the salts: nothing, for one choice a batch, or each row's index."""
    return index.new_zeros(1) if per == "batch" else index


def _check(name: str, input: Tensor) -> None:
    images = isinstance(input, Tensor) and input.ndim == 4
    if not images or not (input.dtype == torch.uint8 or input.is_floating_point()):
        found = f"{list(input.shape)} of {input.dtype}" if isinstance(input, Tensor) else type(input).__name__
        raise ValueError(f"{name} mixes images [B, C, H, W] of uint8 or floating point, got {found}")
