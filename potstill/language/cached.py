"""A teacher that was asked once about the texts of a data set: it answers from what `potstill cache` wrote.

Letters in shapes: N texts, B samples, R response positions, T response tokens of the store, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from potstill.language.contents import contents, of_view
from potstill.language.encode import Encoded
from potstill.language.stores import DTYPES, HEAD, ROWS, TENSORS, part, read, read_about, shapes
from potstill.types import Batch, LazyLogits, Outputs, Task, TopLogits, View

RESIDENT = 2**30
"""Most bytes of a store that lie whole on a GPU."""


class CachedTexts:
    """Stands in for a frozen teacher: `TopLogits` or `LazyLogits` `[B, R, V]` of the response tokens of its texts.

    It has no network: `.module` is None, so no method can let it write. `encoded` are the texts that it will be asked
    about, which are found by their content; left out, those that it was written from, in their order. On a GPU a store
    of up to `resident` bytes lies there whole, so that a step waits for nothing; of a larger one each batch is read
    from the mapped files, for which its indices come back to the host.

    What a batch holds is compared with what the teacher was asked about: texts that somebody else has written are
    refused. On the CPU that is so for every batch. On a GPU, where asking would mean waiting, it is so for the first
    batch, and what is said of another text later on is NaN, which ends the run.

    Raises:
        ValueError: no cache, an unfinished one, a text that it does not hold; when called: a text that is not the one
            of its index.
    """

    trained = False
    module = None
    provides: frozenset[str] = frozenset()

    def __init__(self, folder: Path | str, encoded: Encoded | None = None, *, resident: int = RESIDENT):
        self.folder, self.resident = Path(folder), resident
        self.about = read_about(self.folder)
        rows = read(self.about, self.folder / ROWS)
        edges = rows["edges"].tolist()
        self._parts = [
            read(self.about, part(self.folder, number), shapes(self.about, stop - start))
            for number, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True))
        ]
        self._head = read(self.about, self.folder / HEAD) if self.about.kind == "hidden" else {}
        self._edges = rows["edges"]
        found = None if encoded is None or encoded.digest == self.about.texts else self._found(rows, encoded)
        self._contents, self._starts = (rows[n] if found is None else rows[n][found] for n in ("contents", "starts"))
        self._tables: dict[tuple[str, torch.device], Tensor] = {}
        self._checked = False

    @property
    def fingerprint(self) -> str:
        return f"cached:{self.about.key}"

    def __len__(self) -> int:
        return len(self._contents)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        wrong = self._wrong(seen)
        place = self._places(seen)
        tables = [self._rows(name, place) for name in TENSORS[self.about.kind]]
        if wrong is not None:
            tables[0] = tables[0].masked_fill(wrong[:, None, None], torch.nan)
        if self.about.kind == "hidden":
            return Outputs(self._lazy(tables[0]))
        log_probs, indices = tables
        return Outputs(TopLogits(log_probs, indices.long(), self.about.vocabulary, self.about.temperature or 1.0))

    def _lazy(self, hidden: Tensor) -> LazyLogits:
        """In the dtype that the teacher computed in, however it is stored."""
        weight, bias = (
            self._on(f"head.{name}", hidden.device, self._head[name]) if name in self._head else None
            for name in ("weight", "bias")
        )
        assert weight is not None
        return LazyLogits(hidden.to(DTYPES[self.about.computed or self.about.dtype]), weight, bias)

    def _found(self, rows: dict[str, Tensor], encoded: Encoded) -> Int64[Tensor, "N"]:
        """Where these texts stand in the store."""
        known, order = rows["contents"].sort()
        asked = contents(encoded)
        place = torch.searchsorted(known, asked).clamp(max=len(known) - 1)
        missing = (known[place] != asked).nonzero().flatten().tolist()
        if missing:
            raise ValueError(
                f"the cache {self.folder} holds {self.about.samples:,} texts, and {len(missing):,} of the "
                f"{len(encoded):,} of {encoded.texts.name} {encoded.texts.split} are none of them, the first from "
                f"{encoded.texts.place(missing[0])}: prompt, response, tokenizer or limits of length differ; write "
                "another with potstill cache"
            )
        return order[place]

    def _wrong(self, seen: View) -> Tensor | None:
        """Which samples are other texts than those of their indices; None where all were looked at and are right."""
        index = seen.index
        if index.device.type == "cpu" and len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"the cache {self.folder} holds texts 0 to {len(self) - 1}; another was asked for")
        expected = self._on("contents", index.device, self._contents)
        wrong = of_view(seen) != expected[index.clamp(0, len(self) - 1)]
        if self._checked and index.device.type != "cpu":
            return wrong
        if others := wrong.nonzero().flatten().tolist():
            raise ValueError(
                f"the cache {self.folder} was asked about a text that the teacher has not seen: the response to text "
                f"{int(index[others[0]])} is not the data's own ({len(others)} such of {len(index)} in this batch); "
                "methods in which networks write need the live teacher: leave out teacher.cache"
            )
        self._checked = True
        return None

    def _places(self, seen: View) -> Int64[Tensor, "B R"]:
        """Where the response tokens stand in the store; anywhere in it for what does not count."""
        assert seen.mask is not None
        starts = self._on("starts", seen.index.device, self._starts)[seen.index.clamp(0, len(self) - 1)]
        place = starts[:, None] + (seen.mask.cumsum(1) - 1).clamp(min=0)
        return place.clamp(max=self.about.tokens - 1)

    def _rows(self, name: str, place: Int64[Tensor, "B R"]) -> Tensor:
        pieces = [one[name] for one in self._parts]
        if place.device.type == "cpu" or self.about.token_bytes * self.about.tokens > self.resident:
            return self._gathered(pieces, place.cpu()).to(place.device, non_blocking=True)
        key = name, place.device
        if key not in self._tables:
            self._tables[key] = torch.cat([piece.to(place.device) for piece in pieces])
        return self._tables[key].index_select(0, place.flatten()).unflatten(0, place.shape)

    def _gathered(self, pieces: Sequence[Tensor], place: Int64[Tensor, "B R"]) -> Tensor:
        flat = place.flatten()
        number = torch.searchsorted(self._edges, flat, right=True) - 1
        found = torch.empty(len(flat), pieces[0].shape[1], dtype=pieces[0].dtype)
        for some in number.unique().tolist():
            here = (number == some).nonzero().flatten()
            found[here] = pieces[some].index_select(0, flat[here] - self._edges[some])
        return found.unflatten(0, place.shape)

    def _on(self, name: str, device: torch.device, value: Tensor) -> Tensor:
        """A tensor of the store where it is needed."""
        if device.type == "cpu":
            return value
        if (name, device) not in self._tables:
            self._tables[name, device] = value.to(device)
        return self._tables[name, device]
