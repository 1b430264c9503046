"""What a user says about the data (`Data`) and what comes out of it (`Images`).

Letters in shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

Augment = Literal["crop-flip", "crop", "flip", "resized-crop-flip", "none"]
Order = Literal["own", "shared"]
RESIZED = "resized-crop-flip"
"""The augmentation of ImageNet: random resized crops, and for evaluation the middle 7/8 of the image. It reads the
files themselves, so its data is streamed."""


@dataclass(frozen=True)
class Data:
    """Which images to learn from, and how to read them."""

    name: str = "digits"
    """digits (embedded), cifar100, fashion_mnist, stl10, tiny_imagenet, or a Hugging Face name such as user/set.
    With a root it is only a label."""
    root: Path | None = None
    """Local data: a folder of train-*.parquet and test-*.parquet, of WebDataset shards train-*.tar, a folder of class
    folders, or a CSV of paths and labels."""
    label: str | None = None
    """Column of the labels, e.g. coarse_label for the 20 superclasses of CIFAR-100; in tar shards an ending or a key of
    the json member."""
    image: str | None = None
    """Column of the images (Parquet), of their paths (CSV), or their ending (tar shards)."""
    train_rows: int | None = None
    """Use only the first so many training images."""
    valid_rows: int | None = None
    """Use only the first so many validation images."""
    size: int | None = None
    """Resize the shorter side to this many pixels and crop the centre square, once, when decoding. With
    resized-crop-flip: pixels a side of the crops, 224 when left out."""
    valid_fraction: float = 0.1
    """Part of the training images that is set aside where the data has no validation or test split."""
    held_out: float | None = None
    """Validate on this part of the training images, set aside by class, instead of on the data's own validation or test
    images: to choose something without looking at those."""
    label_noise: float = 0.0
    """Part of the training labels that are flipped, each to any other class alike; the same for teacher, students and
    seeds. Validation labels stay right."""
    imbalance: float = 1.0
    """Keep fewer and fewer training images of later classes, the first having so many times as many as the last (an
    exponential long tail). Validation images all stay."""
    skip_unreadable: bool = False
    """Leave out image files that cannot be read, instead of stopping. Streamed images are all decoded for it, once."""
    augment: Augment = "crop-flip"
    """Augmentation of the training images. resized-crop-flip is ImageNet's: random resized crops, and the middle 7/8
    of each image for evaluation."""
    data_seed: int = 0
    """Seed of the order and of the augmentation."""
    views: int | None = None
    """How many augmented views there are of each training image: epoch e shows view e mod so many, the same to every
    seed of a comparison. Left out, every epoch and every seed has views of its own."""
    order: Order = "own"
    """own: every seed of a comparison sees the images in an order, and with an augmentation, of its own. shared: all
    students see the same batches and train side by side, for one forward of the teacher; seeds then differ in initial
    weights and random draws only, and the table says so."""
    subset: int | None = None
    """Students learn from this many of the training images, drawn at random by data_seed; a teacher that is trained in
    the run has all of them. With teacher.budget, as many as that where left out."""
    watched: float | None = None
    """This part of the students' images is set aside, and watched by fit.schedule plateau (`watched_top1`). Results are
    on the validation images all the same."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Decode images while training, instead of once into memory. auto does so for resized-crop-flip, and for data of
    more than 4 GiB of pixels."""
    workers: int | None = None
    """Processes that decode streamed images, for each rank; 0 decodes in the training process itself. Left out: one
    for each core that the rank has. They change no bit."""

    def __post_init__(self) -> None:
        if self.views is not None and self.views < 1:
            raise ValueError(f"data.views must be at least 1, got {self.views}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"data.workers must not be negative, got {self.workers}")
        if self.augment == RESIZED and self.stream == "never":
            raise ValueError(f"data.augment {RESIZED} reads the files at every step: data.stream cannot be never")
        for name in ("held_out", "watched"):
            part = getattr(self, name)
            if part is not None and not 0 < part < 1:
                raise ValueError(f"data.{name} must lie between 0 and 1, got {part}")
        if self.subset is not None and self.subset < 1:
            raise ValueError(f"data.subset must be at least 1, got {self.subset}")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"data.label_noise is a share of the training labels, in [0, 1), got {self.label_noise}")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(
                "data.imbalance is the size of the largest class divided by that of the smallest, at least 1 "
                f"(balanced), got {self.imbalance}"
            )


@dataclass(frozen=True, eq=False)
class Images:
    """One decoded split, whole in memory.

    `images` is uint8 `[N, C, H, W]`, `labels` int64 `[N]` with values in [0, len(classes)). `fingerprint` is
    a hash of the source and of every decoding choice. `notes` are sentences that a user should see (a split
    was made, files were left out, sizes were changed).
    """

    images: UInt8[Tensor, "N C H W"] = field(repr=False)
    labels: Int64[Tensor, " N"] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    name: str
    split: str
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def part(self) -> None:
        """Part of an image's shorter side that evaluation sees: all of it."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in [0, 1]."""
        return self._statistics[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Population standard deviation of each channel, in [0, 1]."""
        return self._statistics[1]

    @property
    def digest(self) -> str:
        """A hash of pixels and labels themselves, which a copy of the files keeps."""
        digest = hashlib.blake2b(repr((tuple(self.images.shape), self.classes)).encode(), digest_size=8)
        for part in (*self.images.split(4096), self.labels):
            digest.update(part.cpu().contiguous().numpy())
        return digest.hexdigest()

    def picture(self, index: int) -> UInt8[Tensor, "C H W"]:
        """One image as it is evaluated."""
        return self.images[index].cpu()

    def take(self, rows: Int64[Tensor, " M"], split: str) -> Images:
        """Only these images, in this order."""
        mark = f"{self.fingerprint}/{split}"
        return replace(self, images=self.images[rows], labels=self.labels[rows], split=split, fingerprint=mark)

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device; itself where they already lie there."""
        images, labels = self.images.to(device), self.labels.to(device)
        if images is self.images and labels is self.labels:
            return self
        return replace(self, images=images, labels=labels)

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # Counts of the 256 values: exact, so the same for any order of summation, thread count and device.
        counts = torch.zeros(self.channels, 256, dtype=torch.int64, device=self.images.device)
        for part in self.images.split(512):
            for channel in range(self.channels):
                counts[channel] += torch.bincount(part[:, channel].reshape(-1), minlength=256)
        values = torch.arange(256, dtype=torch.float64) / 255
        share = counts.to("cpu", torch.float64) / counts[0].sum().item()
        mean = share @ values
        std = (share * (values - mean[:, None]).square()).sum(dim=1).sqrt()
        return tuple(mean.tolist()), tuple(std.tolist())
