"""What a teacher says of the response tokens of texts, on disk.

    DIR/about.json                of whom and of what it is, and how it is stored
    DIR/rows.safetensors          of each text: a hash of its tokens, where its response tokens begin; where parts begin
    DIR/head.safetensors          hidden states only: the teacher's last layer, once
    DIR/part0000.safetensors, …   the response tokens of all texts, one after the other, the longest texts first

A part is written beside and renamed, so it is whole or not there; one that is there is never written again. Reading
maps it into memory. Nothing is ever unpickled.

Letters in shapes: N texts, T response tokens of all of them, k tokens that are known, D width, V vocabulary, P parts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from potstill.checkpoint import sweep, write_beside, write_json
from potstill.errors import did_you_mean
from potstill.language.contents import contents
from potstill.language.encode import Encoded

ABOUT, ROWS, HEAD = "about.json", "rows.safetensors", "head.safetensors"
VERSION = 1
"""Raise it when files, or hashes of texts, come to mean something else."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TENSORS = {"top-k": ("log_probs", "indices"), "hidden": ("hidden",)}
"""What a part holds: log-probabilities [T, k] and int32 tokens [T, k], or hidden states [T, D]."""
AGAIN = "run the same potstill cache again, which finishes it"


@dataclass(frozen=True)
class About:
    """What a store is of. All of it is its key: two stores with one key hold the same.

    `teacher` is the source's fingerprint in `precision`, `tokenizer` that of the tokenizer with its chat template,
    `texts` the digest of the encoded texts. `dtype` is how floating-point values are stored. Of top-k, `k` tokens are
    known at `temperature`. Of hidden states, `width` is how many numbers a token has, and `computed` the dtype that
    they had. Batches had up to `budget` tokens, padding included, a part has about `part_tokens` response tokens.
    `served` is the name of a model that was asked over a network.
    """

    kind: Literal["top-k", "hidden"]
    teacher: str
    precision: str
    tokenizer: str
    texts: str
    samples: int
    tokens: int
    vocabulary: int
    dtype: str
    budget: int
    part_tokens: int
    k: int | None = None
    temperature: float | None = None
    width: int | None = None
    computed: str | None = None
    served: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r} of a cache; {did_you_mean(self.dtype, DTYPES)}")
        if self.kind == "top-k" and not (1 <= (self.k or 0) <= self.vocabulary and (self.temperature or 0) > 0):
            raise ValueError(
                f"top-k: k is {self.k} and the temperature {self.temperature}; expected k between 1 and the "
                f"{self.vocabulary} tokens of the vocabulary, and a positive temperature"
            )

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    @property
    def token_bytes(self) -> int:
        """Bytes of one response token."""
        size = DTYPES[self.dtype].itemsize
        return (self.width or 0) * size if self.kind == "hidden" else (self.k or 0) * (size + 4)

    def differences(self, other: About, *names: str) -> list[str]:
        """Sentences about fields that are not what they are in `other`."""
        found = [(name, getattr(self, name), getattr(other, name)) for name in names or [f.name for f in fields(self)]]
        return [f"{name} ({mine!r}, now {theirs!r})" for name, mine, theirs in found if mine != theirs]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which texts run together, and where in the store their response tokens lie: functions of lengths alone."""

    encoded: Encoded
    budget: int
    part_tokens: int

    @cached_property
    def order(self) -> np.ndarray:
        """The longest first: what does not fit into memory shows at once, and little is padding."""
        return np.argsort(-self.encoded.lengths, kind="stable")

    @cached_property
    def batches(self) -> list[np.ndarray]:
        """Up to `budget` tokens each, padding included; a text that has more runs alone."""
        lengths, found, start = self.encoded.lengths[self.order], [], 0
        while start < len(lengths):
            stop = start + max(1, self.budget // int(lengths[start]))
            found.append(self.order[start:stop])
            start = stop
        return found

    @cached_property
    def starts(self) -> np.ndarray:
        """Of each text, its first token in the store `[N]`."""
        sizes = self.encoded.responses[self.order]
        found = np.empty(len(sizes), np.int64)
        found[self.order] = np.cumsum(sizes) - sizes
        return found

    @cached_property
    def parts(self) -> list[list[np.ndarray]]:
        """The batches of each part: so many that it has `part_tokens`."""
        sizes = np.cumsum([0, *(self.encoded.responses[batch].sum() for batch in self.batches)])[:-1]
        number = sizes // self.part_tokens
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1), len(number)]
        return [self.batches[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]

    @property
    def edges(self) -> np.ndarray:
        """Where parts begin, and where the last ends, in tokens of the store `[P + 1]`."""
        return np.cumsum([0, *(self.encoded.responses[np.concatenate(part)].sum() for part in self.parts)])

    @property
    def rows(self) -> dict[str, Tensor]:
        """What `rows.safetensors` holds."""
        arrays = {"starts": self.starts, "lengths": self.encoded.responses, "edges": self.edges}
        found = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
        return found | {"contents": contents(self.encoded)}


def read_about(folder: Path) -> About:
    """Raises ValueError, naming the file, where there is no cache of texts or it is not understood."""
    path = folder / ABOUT
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        about = None if "augment" in found else About(**found)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no cache (no {ABOUT}); write one with: potstill cache … --out DIR") from None
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a cache ({error}); delete the folder and write it again") from None
    if about is None:
        raise ValueError(f"{folder} is a cache of images; texts need one of their own")
    if about.version != VERSION:
        raise ValueError(f"{folder} is a cache of version {about.version}, expected {VERSION}; write it again")
    return about


def part(folder: Path, number: int) -> Path:
    return folder / f"part{number:04d}.safetensors"


def read(about: About, path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """The tensors of a file of the store, mapped into memory. `shapes` are those that they must have.

    Raises ValueError for a file that is not there, cannot be read, is of another store, or holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            mark = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except FileNotFoundError:
        raise ValueError(f"the cache {path.parent} is not finished: {path.name} is missing; {AGAIN}") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and {AGAIN}") from None
    if mark != _mark(about, path):
        raise ValueError(f"{path} belongs to another cache or another place in it; delete it and {AGAIN}")
    there = {name: tuple(value.shape) for name, value in found.items()}
    if shapes is not None and there != dict(shapes):
        raise ValueError(f"{path} holds {there}, expected {dict(shapes)}; delete it and {AGAIN}")
    return found


def shapes(about: About, tokens: int) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a part with so many tokens."""
    wide = about.width if about.kind == "hidden" else about.k
    return dict.fromkeys(TENSORS[about.kind], (tokens, wide or 0))


def write(about: About, path: Path, tensors: Mapping[str, Tensor]) -> None:
    sweep(path)
    ready, mark = {name: value.cpu().contiguous() for name, value in tensors.items()}, _mark(about, path)
    write_beside(path, lambda beside: save_file(ready, beside, metadata=mark))


def begin(about: About, folder: Path, rows: Mapping[str, Tensor], head: Mapping[str, Tensor] | None) -> None:
    """All but the parts. Raises ValueError where the folder holds something else, or the disk is too small."""
    if (folder / ABOUT).exists():
        if different := read_about(folder).differences(about):
            raise ValueError(
                f"{folder} holds another cache; they differ in {'; '.join(different)}; choose another folder"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is no cache and not empty; choose an empty or new folder")
    else:
        _check_space(about, folder)
    sweep(folder / ABOUT)
    write_json(folder / ABOUT, asdict(about))
    for name, tensors in ((ROWS, rows), (HEAD, head)):
        if tensors is not None and not (folder / name).exists():
            write(about, folder / name, tensors)


def _mark(about: About, path: Path) -> dict[str, str]:
    return {"place": f"{about.key}/{path.stem}"}  # one entry: several would be written in any order


def _check_space(about: About, folder: Path) -> None:
    need = about.token_bytes * about.tokens
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if need > free:
        raise ValueError(
            f"the cache needs {need / 2**30:.1f} GiB ({about.token_bytes:,} bytes for each of {about.tokens:,} "
            f"response tokens) and {folder} has {free / 2**30:.1f}; keep fewer tokens (--top-k) or a smaller --dtype"
        )
