"""A buffer of texts that the student wrote before, and DistiLLM's scheduler of who writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.hashing import hash_int, uniform, uniform_int
from potstill.language.views import PROMPT, PROMPT_MASK, padded, teaching
from potstill.language.writers import Writer
from potstill.ranks import every_rank, rank
from potstill.types import MAIN, Batch, Progress, Source


class Buffer:
    """The last `capacity` texts that any rank has added, each as prompt and response without padding, on the host.

    All ranks hold the same, so that one's checkpoint is every one's.
    """

    def __init__(self, capacity: int):
        self.rows: deque[tuple[int, np.ndarray, np.ndarray]] = deque(maxlen=capacity)

    @property
    def full(self) -> bool:
        return len(self.rows) == self.rows.maxlen

    def add(self, batch: Batch) -> None:
        view = batch.main
        assert view.label is not None
        assert view.mask is not None
        prompts = _rows(view.extras[PROMPT], view.extras[PROMPT_MASK])
        rows = list(zip(view.index.tolist(), prompts, _rows(view.label, view.mask), strict=True))
        for one in every_rank(rows):
            self.rows.extend(one)

    def draw(self, count: int, device: torch.device, *salts: int | str) -> Batch:
        """So many texts, drawn with replacement."""
        places = uniform_int(torch.arange(count), len(self.rows), *salts).tolist()
        some = [self.rows[place] for place in places]
        prompt, prompt_mask = padded([row[1] for row in some], left=True)
        response, mask = padded([row[2] for row in some])
        index = torch.tensor([row[0] for row in some])
        one, two, three, four, five = (part.to(device) for part in (prompt, prompt_mask, response, mask, index))
        return Batch({MAIN: teaching(one, two, three, four, five)})

    def state_dict(self) -> dict[str, Tensor]:
        sides = {"prompts": [row[1] for row in self.rows], "responses": [row[2] for row in self.rows]}
        found = {"index": torch.tensor([row[0] for row in self.rows], dtype=torch.int64)}
        for name, rows in sides.items():
            found[name] = torch.from_numpy(np.concatenate([*rows, np.empty(0, np.int64)]))
            found[f"{name} lengths"] = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.rows.clear()
        if not len(state["index"]):
            return
        cut = [
            np.split(state[name].numpy(), np.cumsum(state[f"{name} lengths"].numpy())[:-1])
            for name in ("prompts", "responses")
        ]
        self.rows.extend(zip(state["index"].tolist(), *cut, strict=True))


def _rows(values: Tensor, mask: Tensor) -> list[np.ndarray]:
    return [row[real] for row, real in zip(values.cpu().numpy(), mask.cpu().numpy(), strict=True)]


class Adaptive:
    """DistiLLM's scheduler: who writes is one draw a batch, by a threshold that grows when validation gets worse."""

    def __init__(self, writer: Writer, start: float, step: float, margin: float, capacity: int):
        self.writer, self.threshold, self.step, self.margin = writer, start, step, margin
        self.buffer, self.last = Buffer(capacity), float("inf")
        self.fresh = self.replayed = self.seen = 0

    def __call__(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Batch:
        # All ranks decide alike; from the buffer each draws texts of its own.
        draw = float(uniform(torch.tensor(hash_int(seed, "distillm", progress.step)), "who writes"))
        self.seen += 1
        if draw >= self.threshold:
            return batch
        if draw < self.threshold * (1 - progress.fraction) or not self.buffer.full:
            self.fresh += 1
            made = self.writer(batch, sources, progress, seed)
            self.buffer.add(made)
            return made
        self.replayed += 1
        return self.buffer.draw(len(batch), batch.main.index.device, seed, "replay", progress.step, rank())

    def evaluated(self, loss: float) -> None:
        """The validation loss after an evaluation."""
        if loss >= self.last + self.margin:
            self.threshold = min(1.0, self.threshold + self.step)
        self.last = loss

    def report(self) -> dict[str, float]:
        if not self.seen:
            return {}
        found = {"written_share": self.fresh / self.seen, "replayed_share": self.replayed / self.seen}
        found |= {"threshold": self.threshold, **self.writer.report()}
        self.fresh = self.replayed = self.seen = 0
        return found

    def state_dict(self) -> dict[str, Any]:
        counts = {"fresh": self.fresh, "replayed": self.replayed, "seen": self.seen}
        known = {"threshold": self.threshold, "last": self.last, **counts}
        return {"known": known, "buffer": self.buffer.state_dict(), "writer": self.writer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state["known"].items():
            setattr(self, name, value)
        self.buffer.load_state_dict(state["buffer"])
        self.writer.load_state_dict(state["writer"])
