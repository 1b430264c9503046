"""What a frozen source says about every view of every training sample, on disk, and how it gets there.

    DIR/about.json                            what it is of, and how it is stored
    DIR/plain.safetensors                     the first samples as they are, and all that is said of them, for the probe
    DIR/view0000/shard0000.safetensors, …     samples in order, so many to a shard

A shard is written beside and renamed, so it is whole or not there; one that is there is never written again. Reading
maps it into memory. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from potstill.checkpoint import sweep, write_beside, write_json
from potstill.data.foreign import Pair
from potstill.data.loaders import Split, shown
from potstill.errors import did_you_mean
from potstill.largest import keep_largest
from potstill.tasks.classify import Classify
from potstill.types import MAIN, PLAIN, Batch, Progress, Source, View

ABOUT = "about.json"
VERSION = 1
"""Raise it when files, or views with the same seed, come to mean something else."""
SHARD_ROWS = 4096
"""About how many samples a shard has."""
PROBE_ROWS = 8
"""How many samples are also stored as they are."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class About:
    """What a cache is of. All but `views` is its key: two caches with one key hold the same bits.

    `teacher` is the source's fingerprint in `precision`, `data` the digest of the training images. `batch_size` samples
    ran at once. `names` are the taps that the probe found, `taps` those that are stored. `dtype` is how floating point
    values are stored (None: as they were computed). With `top_k` only the largest logits are, and the others' mass at
    `temperature`.
    """

    teacher: str
    precision: str
    data: str
    samples: int
    augment: str
    data_seed: int
    batch_size: int
    names: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    dtype: str | None = None
    top_k: int | None = None
    temperature: float | None = None
    views: int = 1
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r} of a cache; {did_you_mean(self.dtype, DTYPES)}")
        if self.views < 1:
            raise ValueError(f"a cache holds at least 1 view of each sample, got {self.views}")
        if self.top_k is not None and (self.top_k < 1 or not self.temperature):
            raise ValueError(f"top_k must be at least 1 and come with a temperature, got {self.top_k}")

    @property
    def rows(self) -> int:
        """Samples in a shard: whole batches, so that where a shard ends changes nothing."""
        return max(1, SHARD_ROWS // self.batch_size) * self.batch_size

    @property
    def shards(self) -> int:
        return -(-self.samples // self.rows)

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(replace(self, views=1))).encode()).hexdigest()[:16]

    def differences(self, other: About, *names: str) -> list[str]:
        """Sentences about fields that are not what they are in `other`."""
        found = [(name, getattr(self, name), getattr(other, name)) for name in names or [f.name for f in fields(self)]]
        return [f"{name} ({mine!r}, now {theirs!r})" for name, mine, theirs in found if mine != theirs]

    def path(self, folder: Path, view: int, shard: int) -> Path:
        if view == PLAIN:
            return folder / "plain.safetensors"
        return folder / f"view{view:04d}" / f"shard{shard:04d}.safetensors"

    def held(self, view: int, shard: int) -> range:
        """The samples of a shard."""
        if view == PLAIN:
            return range(min(PROBE_ROWS, self.samples))
        return range(shard * self.rows, min((shard + 1) * self.rows, self.samples))


def read_about(folder: Path) -> About:
    """Raises ValueError, naming the file, where there is no cache or it is not understood."""
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text())
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        about = About(**plain)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no cache (no {ABOUT}); write one with: potstill cache … --out DIR") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a cache ({error}); delete the folder and write it again") from None
    if about.version != VERSION:
        raise ValueError(f"{folder} is a cache of version {about.version}, expected {VERSION}; write it again")
    return about


def read_shard(about: About, folder: Path, view: int, shard: int, tensors: bool = True) -> dict[str, Tensor]:
    """A shard's tensors, mapped into memory (`tensors=False`: it is only looked at).

    Raises ValueError for a shard that is not there, cannot be read, is of another cache, or lacks something.
    """
    path = about.path(folder, view, shard)
    again = "run the same potstill cache again, which finishes it"
    try:
        with safe_open(path, "pt") as file:
            mark, names = file.metadata() or {}, set(file.keys())
            lengths = {file.get_slice(name).get_shape()[0] for name in names}
            found = {name: file.get_tensor(name) for name in names} if tensors else {}
    except FileNotFoundError:
        held = about.held(view, shard)
        what = f"samples {held.start} to {held.stop - 1} of view {view}"
        raise ValueError(f"the cache {folder} is not finished: {what} are missing ({path.name}); {again}") from None
    except (OSError, SafetensorError, ValueError, IndexError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and {again}") from None
    if mark != _mark(about, view, shard):
        raise ValueError(f"{path} belongs to another cache or another place in it; delete it and {again}")
    wanted = set(stored(about, view))
    if lengths != {len(about.held(view, shard))} or wanted != names:
        raise ValueError(f"{path} holds {sorted(names)}, expected {sorted(wanted)}; delete it and {again}")
    return found


def _mark(about: About, view: int, shard: int) -> dict[str, str]:
    return {"place": f"{about.key}/{view}/{shard}"}  # one entry: several would be written in any order


def stored(about: About, view: int) -> tuple[str, ...]:
    """The tensors of a shard."""
    answer = ("output",) if about.top_k is None or view == PLAIN else ("output.values", "output.classes", "output.tail")
    return (*answer, *(f"tap.{tap}" for tap in about.taps))


Place = tuple[int, int]
"""A view, and the number of a shard of it."""


def places(about: About) -> list[Place]:
    """All that a finished cache has, in the order in which it is written."""
    return [(view, shard) for view in range(about.views) for shard in range(about.shards)]


def missing(about: About, folder: Path) -> list[Place]:
    """What is not there yet."""
    return [place for place in places(about) if not about.path(folder, *place).exists()]


def write(
    source: Source,
    images: Split | Pair,
    folder: Path,
    about: About,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> About:
    """Run the source on every view and write what it says; shards that are there already are kept.

    `images` lie where the source runs. Every batch has `about.batch_size` samples (the last is filled up with copies),
    because arithmetic may depend on how many run at once. More views may be added to a finished cache.

    Raises:
        ValueError: the folder holds something else, the disk is too small, or an answer is not finite.
    """
    about = begin(source, images, folder, about)
    add(source, images, folder, about, missing(about, folder), on_step)
    return about


def with_views(before: About, about: About, folder: Path) -> About:
    """A cache that exists, with what `about` adds. Raises ValueError where they are not of the same."""
    if different := replace(before, views=1).differences(replace(about, views=1)):
        raise ValueError(f"{folder} holds another cache; they differ in {'; '.join(different)}; choose another folder")
    return replace(before, views=max(before.views, about.views))


def begin(source: Source, images: Split | Pair, folder: Path, about: About) -> About:
    """All but the shards: `about.json`, with the views that are to come, and the first samples as they are.

    Raises as `write` does.
    """
    if (folder / ABOUT).exists():
        about = with_views(read_about(folder), about, folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is no cache and not empty; choose an empty or new folder")
    plain = _said(source, images, about, PLAIN, about.held(PLAIN, 0))
    _check_finite(plain, PLAIN)
    _check_space(_packed(plain, about), folder, sum(len(about.held(*place)) for place in missing(about, folder)))
    sweep(folder / ABOUT)
    write_json(folder / ABOUT, asdict(about))
    _save(plain, about, folder, PLAIN, 0)
    return about


def add(
    source: Source,
    images: Split | Pair,
    folder: Path,
    about: About,
    wanted: Sequence[Place],
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Write these shards of a cache that was begun. Raises ValueError for an answer that is not finite."""
    steps, total = 0, sum(-(-len(about.held(*place)) // about.batch_size) for place in wanted)
    for view, shard in wanted:
        tensors: dict[str, list[Tensor]] = {}
        held = about.held(view, shard)
        for start in range(held.start, held.stop, about.batch_size):
            rows = range(start, min(start + about.batch_size, held.stop))
            for name, value in _packed(_said(source, images, about, view, rows), about).items():
                tensors.setdefault(name, []).append(value[: len(rows)].cpu())
            steps += 1
            on_step(Progress(steps, view, total))
        whole = {name: torch.cat(parts) for name, parts in tensors.items()}
        _check_finite(whole, view)
        _save(whole, about, folder, view, shard)


def _said(source: Source, images: Split | Pair, about: About, view: int, rows: Sequence[int]) -> dict[str, Tensor]:
    size = len(rows) if view == PLAIN else min(about.batch_size, about.samples)
    place = (images.images if isinstance(images, Pair) else images.labels).device
    index = torch.tensor([*rows, *[rows[-1]] * (size - len(rows))], device=place)
    pixels = shown(images, index, about.augment, about.data_seed, None if view == PLAIN else view)
    with torch.no_grad():
        said = source(Classify(), Batch({MAIN: View(pixels, index, number=view)}), MAIN, about.taps)
    return {"output": said.dense()} | {f"tap.{tap}": said.taps[tap] for tap in about.taps}


def _packed(said: dict[str, Tensor], about: About) -> dict[str, Tensor]:
    """What is stored of what was said."""
    found, tail = dict(said), {}
    if about.top_k is not None:
        logits = found.pop("output")
        if about.top_k >= logits.shape[1]:
            raise ValueError(
                f"top_k is {about.top_k} and the teacher answers with {logits.shape[1]} classes: leave top_k out"
            )
        values, classes, rest = keep_largest(logits, about.top_k, about.temperature or 1.0)
        found, tail = found | {"output.values": values}, {"output.classes": classes, "output.tail": rest}
    if about.dtype is not None:
        found = {n: v.to(DTYPES[about.dtype]) if v.is_floating_point() else v for n, v in found.items()}
    return found | tail


def _save(tensors: dict[str, Tensor], about: About, folder: Path, view: int, shard: int) -> None:
    sweep(about.path(folder, view, shard))
    ready, mark = {name: value.cpu().contiguous() for name, value in tensors.items()}, _mark(about, view, shard)
    write_beside(about.path(folder, view, shard), lambda beside: save_file(ready, beside, metadata=mark))


def _check_finite(tensors: dict[str, Tensor], view: int) -> None:
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(
                f"the teacher answers with NaN or infinity ({name}, view {view}); check its weights, its preprocessing "
                "and its precision"
            )


def _check_space(shard: dict[str, Tensor], folder: Path, samples: int) -> None:
    row = sum(value.element_size() * value[0].numel() for value in shard.values())
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if row * samples > free:
        raise ValueError(
            f"the cache needs {row * samples / 2**30:.1f} GiB ({row:,} bytes for each view of a sample) and {folder} "
            f"has {free / 2**30:.1f}; store fewer views, bf16 or top-k, or leave out methods that read feature maps"
        )
