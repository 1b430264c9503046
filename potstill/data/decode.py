"""Encoded images to one uint8 array, with Pillow in a thread pool."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from potstill.console import Talk
from potstill.data.raw import Item

MIXED_SIZE = 64
"""Side of the square that images of different sizes are brought to when no size is given."""

_CHUNK = 128
BAR_FROM = 2000
_GREY_MODES = ("1", "L", "LA", "La", "F", "I")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Plan:
    """What every image of a data set becomes. The training split decides it, the other split follows."""

    channels: int
    height: int
    width: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoded:
    """`pixels` is uint8 `[N, C, H, W]` (zeros where it failed); `failures` maps rows to reasons."""

    pixels: np.ndarray
    failures: dict[int, str]
    resized: int


def plan(items: Sequence[Item], size: int | None, title: str, quiet: bool) -> Plan:
    """Look at the headers: grey only if all are, and the common size, or a square where sizes differ."""
    found = [head for head in _each(items, _header, f"{title}: headers", quiet) if not isinstance(head, str)]
    if not found:  # nothing can be opened: decoding names the files
        return Plan(3, size or MIXED_SIZE, size or MIXED_SIZE)
    channels = 1 if all(grey for _, _, grey in found) else 3
    sizes = sorted({(width, height) for width, height, _ in found}, key=lambda s: (s[0] * s[1], s))
    if len(sizes) == 1:
        width, height = sizes[0]
        if size is None or (size, size) == (width, height):
            return Plan(channels, height, width)
        return Plan(channels, size, size, (f"{title}: resized from {width}x{height} to {size}x{size}",))
    (w0, h0), (w1, h1) = sizes[0], sizes[-1]
    side = size or MIXED_SIZE
    hint = "" if size else " (--data.size sets another size)"
    note = (
        f"{title}: sizes differ, from {w0}x{h0} to {w1}x{h1}; the shorter side was resized and the centre "
        f"cropped to {side}x{side}{hint}"
    )
    return Plan(channels, side, side, (note,))


def decode(items: Sequence[Item], plan: Plan, title: str, quiet: bool) -> Decoded:
    """Decode all of `items`; what cannot be read is listed, not raised."""
    pixels = np.zeros((len(items), plan.channels, plan.height, plan.width), dtype=np.uint8)
    outcomes = _each(items, lambda item, row: _pixels(item, plan, pixels[row]), title, quiet)
    failures = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, str)}
    return Decoded(pixels, failures, sum(outcome is True for outcome in outcomes))


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Grey uint8 `[N, 1, H, W]` to `[N, 1, size, size]`."""
    images = (ImageOps.fit(Image.fromarray(image[0]), (size, size), Image.Resampling.BILINEAR) for image in pixels)
    return np.stack([np.asarray(image)[None] for image in images])


def _each(items: Sequence[Item], work: Callable[[Item, int], _T], title: str, quiet: bool) -> list[_T | str]:
    # Chunks keep the cost of the pool small against images of 32 x 32.
    def chunk(start: int) -> list[_T | str]:
        return [_try(work, items[row], row) for row in range(start, min(start + _CHUNK, len(items)))]

    get_ready()
    starts = range(0, len(items), _CHUNK)
    results: list[_T | str] = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        Talk(quiet).counted(title, len(items), len(items) > BAR_FROM) as advance,
    ):
        for part in pool.map(chunk, starts):
            results += part
            advance(len(part))
    return results


def get_ready() -> None:
    """Import Pillow's plugins once, not in several threads, and JPEG and PNG first: they are tried in that order."""
    Image.preinit()
    Image.init()


def _try(work: Callable[[Item, int], _T], item: Item, row: int) -> _T | str:
    try:
        return work(item, row)
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to
        return reason(error)


def reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify"
    return f"{type(error).__name__}: {error}".strip(": ")


def opened(item: Item) -> Image.Image:
    """The image with its header read."""
    if item is None:
        raise ValueError("neither bytes nor a path")
    return Image.open(io.BytesIO(item) if isinstance(item, bytes) else Path(item))


def _header(item: Item, row: int) -> tuple[int, int, bool]:
    with opened(item) as image:
        return shape(image)


def shape(image: Image.Image) -> tuple[int, int, bool]:
    """Width, height (upright), and whether it is grey; only the header is read."""
    width, height = image.size
    if "exif" in image.info and image.getexif().get(0x0112, 1) >= 5:  # lies on its side
        width, height = height, width
    return width, height, image.mode in _GREY_MODES or image.mode.startswith("I;16")


def pixels(image: Image.Image, channels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """One image of any mode as uint8 `[C, H, W]`: upright, grey or colour, resized and cropped to `size` (H, W)."""
    image = upright(image, channels)
    if size is not None and image.size != (size[1], size[0]):
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    return as_array(image)


def upright(image: Image.Image, channels: int) -> Image.Image:
    """An image of any mode turned as its camera says, in grey or colour."""
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def as_array(image: Image.Image) -> np.ndarray:
    """uint8 `[C, H, W]` of a grey or colour image."""
    array = np.array(image)
    return array[None] if image.mode == "L" else np.ascontiguousarray(array.transpose(2, 0, 1))


def _pixels(item: Item, plan: Plan, out: np.ndarray) -> bool:
    """Write one image into `out` `[C, H, W]`; True if it had to be resized."""
    with opened(item) as image:
        width, height, _ = shape(image)
        out[:] = pixels(image, plan.channels, (plan.height, plan.width))
        return (width, height) != (plan.width, plan.height)
