"""What one network does to its input and its labels. Student and teacher each have their own.

Letters in shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from potstill.errors import did_you_mean


class Measured(Protocol):
    """What has statistics: `Images` and `Stream`."""

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Preprocess:
    """Pixels in [0, 1], resized to `size` x `size`, then `(x - mean) / std` per channel.

    `mean` and `std` have one value per channel, or one for all. `label_map[k]` is the network's output for
    class k of the data.

    Raises:
        ValueError: only one of `mean` and `std`, different lengths, a `std` that is not positive, or a `size`
            below 1.

    >>> prepare = Preprocess(mean=(0.5,), std=(0.5,), size=4)
    >>> prepare(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8))[0, 0, 0]
    tensor([1., 1., 1., 1.])
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    label_map: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError(f"mean and std must have the same length, got {self.mean} and {self.std}")
        if any(value <= 0 for value in self.std or ()):
            raise ValueError(f"std must be positive, got {self.std}")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.label_map is not None and min(self.label_map, default=-1) < 0:
            raise ValueError(f"label_map must hold output numbers from 0, one per class, got {self.label_map}")

    @classmethod
    def identity(cls) -> Preprocess:
        """Pixels in [0, 1] and nothing else."""
        return cls()

    @classmethod
    def of(cls, images: Measured, size: int | None = None) -> Preprocess:
        """Mean and standard deviation of these images (a constant channel is only centred)."""
        return cls(images.mean, tuple(value or 1.0 for value in images.std), size)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `describe`.

        Raises:
            ValueError: an unknown name.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"unknown preprocessing setting {name!r}; {did_you_mean(name, known)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def describe(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __call__(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 `[B, C, H, W]`, or floating point already in [0, 1], to the network's input in `dtype`.

        Computed in at least float32, without waiting for the device.

        Raises:
            ValueError: another dtype, or a number of channels that does not fit `mean`.
        """
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"images must be uint8 or floating point in [0, 1], got {x.dtype}")
        wide = torch.float64 if torch.float64 in (dtype, x.dtype) else torch.float32
        x = x.to(wide).div_(255) if x.dtype == torch.uint8 else x.to(wide)
        if self.size is not None and tuple(x.shape[-2:]) != (self.size, self.size):
            smaller = self.size < min(x.shape[-2:])
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=smaller)
        if self.mean is not None and self.std is not None:
            if len(self.mean) not in (1, x.shape[1]):
                raise ValueError(
                    f"mean and std have {len(self.mean)} values, but the images have {x.shape[1]} channel(s)"
                )
            x = (x - _constant(self.mean, x.device, wide)) / _constant(self.std, x.device, wide)
        return x.to(dtype)

    def labels(self, output: Tensor) -> Tensor:
        """Columns of `output` `[B, outputs]` in the order of the data's classes, `[B, K]`.

        Raises:
            ValueError: the label map names an output that the network does not have.
        """
        if self.label_map is None:
            return output
        if max(self.label_map) >= output.shape[1]:
            raise ValueError(
                f"label_map names output {max(self.label_map)}, but the network has {output.shape[1]} outputs"
            )
        return output.index_select(1, _places(self.label_map, output.device))


# One tensor per device and dtype, made outside inference mode so that a later gradient may pass through it.
@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


@lru_cache(maxsize=256)
def _places(values: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.int64, device=device)


USUAL: dict[str, Preprocess] = {
    "unit [0, 1]": Preprocess(),
    "[-1, 1]": Preprocess((0.5,), (0.5,)),
    "imagenet": Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Preprocess((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Preprocess((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "raw 0–255": Preprocess((0.0,), (1 / 255,)),
}
"""Normalisations in common use, to try when a teacher answers near chance. Three values fit colour only."""
