"""Images in WebDataset shards: uncompressed tar files in which members of one base name are one sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from potstill.data.folders import ENDINGS
from potstill.data.raw import VALID_NAMES, Raw, stamp
from potstill.data.spec import Data
from potstill.data.stores import Members, Strings
from potstill.errors import did_you_mean

_SPLIT = re.compile(rf"(?:^|[^a-z])(train|{'|'.join(VALID_NAMES)})(?![a-z])", re.IGNORECASE)
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
_LABELS = ("cls", "label", "json")
_IMAGES = tuple(ending.removeprefix(".") for ending in ENDINGS)


class _Part(NamedTuple):
    """One member: its name, and where its bytes lie in the shard."""

    name: str
    start: int
    size: int


def tar_files(root: Path) -> list[Path]:
    """Tar files in `root`, else in `root/data`, else in folders named like splits.

    Raises:
        ValueError: they are compressed, so that no sample can be found without reading all before it.
    """
    found = [root] if root.is_file() else sorted(root.glob("*")) + sorted(root.glob("data/*"))
    if not root.is_file():
        found += [file for file in sorted(root.glob("*/*")) if _SPLIT.search(file.parent.name)]
    if packed := [file for file in found if file.name.lower().endswith(_PACKED)]:
        raise ValueError(
            f"{packed[0]} is compressed, so samples cannot be read in random order; unpack it to .tar (images are "
            "compressed already)"
        )
    return list(dict.fromkeys(file for file in found if file.suffix.lower() == ".tar"))


def webdataset(root: Path, files: Sequence[Path], data: Data) -> tuple[Raw, Raw | None]:
    """Training and validation split of a folder of shards such as train-0000.tar, whose members are 000012.jpg and
    000012.cls (or 000012.json with a label in it).

    Raises:
        ValueError: no training shards, a file that is no tar, or a sample without image or label.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        match = _SPLIT.search(file.name) or (_SPLIT.search(file.parent.name) if file.parent != root else None)
        groups.setdefault(match[1].lower() if match else "", []).append(file)
    if "train" not in groups and set(groups) == {""}:
        groups = {"train": groups[""]}
    if "train" not in groups:
        raise ValueError(
            f"no training shards (train in their names) in {root}; there is {', '.join(f.name for f in files[:5])}"
        )
    base = root.parent if root.is_file() else root
    held = next((name for name in VALID_NAMES if name in groups), None)
    train = _split("train", groups["train"], base, data)
    return train, (_split(held, groups[held], base, data) if held else None)


def _split(split: str, files: Sequence[Path], base: Path, data: Data) -> Raw:
    names, shard, start, size, labels = [], [], [], [], []
    for number, path in enumerate(files):
        with path.open("rb") as file:
            for parts in _samples(path):
                image = _image(path, parts, data)
                labels.append(_label(path, parts, data, file))
                names.append(image.name)
                shard.append(number)
                start.append(image.start)
                size.append(image.size)
    if not labels:
        raise ValueError(f"split {split!r} has no samples; its shards are {', '.join(str(file) for file in files[:3])}")
    whole = all(isinstance(label, int) for label in labels)
    numbered = np.array(labels, dtype=np.int64) if whole else np.array([str(label) for label in labels], dtype=object)
    store = Members(
        str(base),
        [stamp(path, base) for path in files],
        Strings.of(names),
        np.array(shard, dtype=np.int32),
        np.array(start, dtype=np.int64),
        np.array(size, dtype=np.int64),
    )
    return Raw(split, numbered, None, store, np.arange(len(labels)))


def _samples(path: Path) -> Iterator[dict[str, _Part]]:
    """The members of each sample by their ending; what follows the first dot is the ending, as in WebDataset."""
    key, parts = None, {}
    for member in _members(path):
        folder, slash, file = member.name.rpartition("/")
        stem, _, ending = file.partition(".")
        if f"{folder}{slash}{stem}" != key:
            if parts:
                yield parts
            key, parts = f"{folder}{slash}{stem}", {}
        parts[ending.lower()] = member
    if parts:
        yield parts


def _members(path: Path) -> Iterator[_Part]:
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # ty: ignore[missing-attribute]  (or all headers would stay in memory)
                if member.isfile() and not member.name.rpartition("/")[2].startswith((".", "__")):
                    yield _Part(member.name, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as tar (truncated or damaged?): {error}") from error


def _image(path: Path, parts: dict[str, _Part], data: Data) -> _Part:
    if data.image is not None:
        if data.image not in parts:
            raise ValueError(f"{_at(path, parts)} has no {data.image!r}; {did_you_mean(data.image, parts)}")
        return parts[data.image]
    found = next((ending for ending in _IMAGES if ending in parts), None)
    if found is None:
        raise ValueError(f"{_at(path, parts)} has no image ({', '.join(_IMAGES[:4])} …); it has {', '.join(parts)}")
    return parts[found]


def _label(path: Path, parts: dict[str, _Part], data: Data, file: Any) -> int | str:
    def text(part: _Part) -> str:
        file.seek(part.start)
        return file.read(part.size).decode(errors="replace").strip()

    wanted = data.label
    ending = wanted if wanted in parts else next((name for name in _LABELS if name in parts), None)
    if ending is None:
        raise ValueError(f"{_at(path, parts)} has no label ({', '.join(_LABELS)}); it has {', '.join(parts)}")
    found: Any = text(parts[ending])
    if ending == "json":
        try:
            table = json.loads(found)
            found = table[wanted or "label"]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, member {parts[ending].name}: no JSON object: {error}") from error
        except KeyError:
            hint = did_you_mean(wanted or "label", table)
            raise ValueError(f"{path}, member {parts[ending].name} has no {wanted or 'label'!r}; {hint}") from None
    elif wanted is not None and ending != wanted:
        raise ValueError(f"{_at(path, parts)} has no {wanted!r}; {did_you_mean(wanted, parts)}")
    if isinstance(found, str) and found.removeprefix("-").isdecimal():
        return int(found)
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        raise ValueError(f"{_at(path, parts)} has the label {found!r}; a label is an integer or a name")
    return found


def _at(path: Path, parts: dict[str, _Part]) -> str:
    folder, slash, file = next(iter(parts.values())).name.rpartition("/")
    return f"{path}, sample {folder}{slash}{file.partition('.')[0]}"
