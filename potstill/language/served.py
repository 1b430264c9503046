"""A teacher that runs elsewhere: the k most probable tokens that a server of language models names.

Letters in shapes: B samples, L tokens of a whole sequence, R response positions, k tokens that are known.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from potstill.language.completions import Endpoint, Law, asking, choose, laws
from potstill.types import Batch, Outputs, Task, TopLogits

Dialect = Literal["vllm", "openai"]


class Served:
    """Stands in for a frozen teacher: `TopLogits` `[B, R, k]` at temperature 1, asked for over HTTP.

    `url` is that of a server with OpenAI's completions API, `model` a model that it serves (left out: its only one),
    `vocabulary` how many tokens student and teacher have. `dialect` is how log-probabilities of a given text are asked
    for, see `completions`. `tokenizer` is needed where tokens come back as strings. Each text is a request of its own,
    `jobs` of them at once; the server batches them.

    It has no network: `.module` is None. It can be asked about any text, those that a student writes too, but every
    step then waits for the server: capture it into a cache where the texts are the data's own (`signals.capture`).

    Raises:
        ValueError: a server that cannot be reached, a model that it does not serve; when asked: fewer tokens than `k`,
            other tokens than were sent, numbers that are no log-probabilities.
    """

    trained = False
    module = None
    provides: frozenset[str] = frozenset()

    def __init__(
        self,
        url: str,
        model: str | None = None,
        k: int = 20,
        *,
        vocabulary: int,
        dialect: Dialect = "vllm",
        tokenizer: Any = None,
        key: str | None = None,
        jobs: int = 8,
        **patience: Any,
    ):
        if dialect not in ("vllm", "openai"):
            raise ValueError(f"dialect is vllm or openai, got {dialect!r}")
        if not 1 <= k <= vocabulary:
            raise ValueError(f"k must lie between 1 and the {vocabulary} tokens of the vocabulary, got {k}")
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        self.k, self.vocabulary, self.dialect, self.tokenizer, self.jobs = k, vocabulary, dialect, tokenizer, jobs
        self.endpoint = Endpoint(url, key, **patience)
        self.card = choose(self.endpoint.models(), model, self.endpoint.url)

    @property
    def served(self) -> str:
        """The name of the model."""
        return str(self.card["id"])

    @property
    def fingerprint(self) -> str:
        """Of what the server says of the model: its weights cannot be seen."""
        known = repr((self.served, self.card.get("root"), self.card.get("parent")))
        return f"served:{hashlib.sha256(known.encode()).hexdigest()[:16]}"

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        assert seen.mask is not None
        ids, real = (seen.input[name].cpu().numpy() for name in ("input_ids", "attention_mask"))
        real, mask, at = real.astype(bool), seen.mask.cpu().numpy(), seen.extras["at"].cpu().numpy()
        place = np.take_along_axis(real.cumsum(1) - 1, at, 1) + 1  # of the label itself, padding not counted
        wanted = [(ids[row][real[row]].tolist(), place[row][mask[row]].tolist()) for row in range(len(ids))]
        with ThreadPoolExecutor(self.jobs) as pool:
            said = list(pool.map(lambda one: self.laws(*one), wanted))
        log_probs = np.full((*mask.shape, self.k), -np.inf, np.float32)
        indices = np.full((*mask.shape, self.k), -1, np.int64)
        flat = [law for one in said for law in one]
        for row, column, law in zip(*mask.nonzero(), flat, strict=True):
            indices[row, column, : len(law)] = list(law)
            log_probs[row, column, : len(law)] = list(law.values())
        device = seen.index.device
        put = [torch.from_numpy(array).to(device) for array in (log_probs, indices)]
        return Outputs(TopLogits(put[0], put[1], self.vocabulary))

    def laws(self, ids: list[int], places: list[int]) -> list[Law]:
        """The laws of the tokens of one text that stand at these places."""
        body = asking(self.dialect, ids, self.k, strings=self.tokenizer is not None)
        choice = self.endpoint.complete({"model": self.served, **body})
        try:
            found = laws(choice, ids, self.k, places, self.names)
        except ValueError as error:
            raise ValueError(f"{self.endpoint.url}, model {self.served!r}: {error}") from None
        # A network has columns that are no token; their mass stays with the others.
        return [{token: value for token, value in law.items() if token < self.vocabulary} for law in found]

    @cached_property
    def names(self) -> dict[str, int]:
        """Which token a string is, of those that no other token is written like."""
        if self.tokenizer is None:
            return {}
        written = self.tokenizer.batch_decode([[token] for token in range(self.vocabulary)])
        count = Counter(written)
        return {text: token for token, text in enumerate(written) if count[text] == 1}
