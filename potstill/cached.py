"""A frozen source that was asked once: it answers from what `potstill cache` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from potstill.cache import read_about, read_shard
from potstill.errors import did_you_mean
from potstill.largest import check_tail, spread
from potstill.taps import stages_of
from potstill.types import PLAIN, Batch, Objective, Outputs, Task

RESIDENT = 2**30
"""Most bytes of one tensor's view that lie whole on the device."""


class Cached:
    """Stands in for a frozen teacher. It has no network: `.module` is None, and `.provides` are the taps it stored.

    A batch is answered by the number of its view and the indices of its samples. The view of the epoch is put on the
    device when the epoch begins, so that a step waits for nothing; a tensor of more than `resident` bytes is read from
    the mapped files batch by batch instead, for which a GPU's indices come back to the host.

    Raises:
        ValueError: no cache, an unfinished one, fewer than `views` views (all that it has, where left out); when
            called: a batch that does not say which view it is, a view, a sample or a tap that is not stored.
    """

    trained = False
    module = None

    def __init__(self, folder: Path, views: int | None = None, resident: int = RESIDENT):
        self.folder, self.resident = Path(folder), resident
        self.about = read_about(self.folder)
        self.views = self.about.views if views is None else views
        if self.views > self.about.views:
            raise ValueError(
                f"the cache {folder} holds {self.about.views} view(s) of each sample, {self.views} are asked for; add "
                f"them with potstill cache … --views {self.views}, or set data.views to {self.about.views}"
            )
        for view, shard in [(PLAIN, 0), *((v, s) for v in range(self.views) for s in range(self.about.shards))]:
            read_shard(self.about, self.folder, view, shard, tensors=False)
        self._plain = read_shard(self.about, self.folder, PLAIN, 0)
        self._current = PLAIN
        self._shards = [self._plain]
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(self.about.taps)

    @property
    def fingerprint(self) -> str:
        return f"cached:{self.about.key}"

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        """`stages` means every stage that the teacher has; whether they are stored is another question."""
        found: list[str] = []
        for tap in taps:
            suffix = tap.removeprefix("stages")
            whole = tap in ("stages", "stages.pre")
            found.extend([name + suffix for name in stages_of(self.about.names)] if whole else [tap])
        return tuple(found)

    def fits(self, name: str, objective: Objective, taps: Sequence[str]) -> None:
        """Raises ValueError for a loss that would mean something else on top-k logits."""
        if self.about.top_k is not None and "output" in taps:
            check_tail(name, objective, self.about.top_k, self.about.temperature)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        for tap in taps:
            if tap not in self.about.taps:
                raise ValueError(f"the cache {self.folder} has no tap {tap!r}; {did_you_mean(tap, self.about.taps)}")
        if seen.number is None:
            raise ValueError(
                f"view {view!r} does not say which of the data's views it is, so the cache {self.folder} cannot "
                "answer; it can for Potstill's own loader of the images that it was written from"
            )
        if not (seen.number == PLAIN or 0 <= seen.number < self.views):
            raise ValueError(
                f"the cache {self.folder} holds views 0 to {self.views - 1} of each sample, and was asked for view "
                f"{seen.number}; set data.views to {self.views}"
            )
        if seen.number != self._current:
            self._turn_to(seen.number)
        try:
            answer = self._answer(seen.index)
            return Outputs(answer, {tap: self._wide(f"tap.{tap}", seen.index) for tap in taps})
        except IndexError:
            count = len(self.about.held(PLAIN, 0)) if seen.number == PLAIN else self.about.samples
            raise ValueError(
                f"the cache {self.folder} holds samples 0 to {count - 1} of view {seen.number}; another was asked for"
            ) from None

    def _turn_to(self, view: int) -> None:
        shards = range(1 if view == PLAIN else self.about.shards)
        self._tables.clear()
        self._shards = [read_shard(self.about, self.folder, view, shard) for shard in shards]
        self._current = view

    def _answer(self, index: Tensor) -> Tensor:
        if self.about.top_k is None or self._current == PLAIN:
            return self._wide("output", index)
        values, classes, tail = (self._rows(f"output.{part}", index) for part in ("values", "classes", "tail"))
        return spread(values.to(tail.dtype), classes, tail, self._plain["output"].shape[1])

    def _wide(self, name: str, index: Tensor) -> Tensor:
        """In the dtype that the source computed in, however it is stored."""
        return self._rows(name, index).to(self._plain[name].dtype)

    def _rows(self, name: str, index: Tensor) -> Tensor:
        pieces = [shard[name] for shard in self._shards]
        if sum(piece.nbytes for piece in pieces) > self.resident:
            return _gathered(pieces, index)
        key = name, index.device
        if key not in self._tables:
            self._tables[key] = torch.cat(pieces).to(index.device)
        return self._tables[key].index_select(0, index)


def _gathered(pieces: Sequence[Tensor], index: Tensor) -> Tensor:
    """Rows of tensors that lie one behind the other; all but the last are equally long."""
    host, length = index.cpu(), len(pieces[0])
    if len(host) and not 0 <= int(host.min()) <= int(host.max()) < sum(map(len, pieces)):
        raise IndexError
    found = torch.empty(len(host), *pieces[0].shape[1:], dtype=pieces[0].dtype)
    for number in (host // length).unique().tolist():
        places = (host // length == number).nonzero().flatten()
        found[places] = pieces[number].index_select(0, host[places] - number * length)
    return found.to(index.device)
