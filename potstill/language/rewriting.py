"""Texts whose responses a teacher has written, once and before the first step (sequence-level distillation)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from potstill.checkpoint import write_beside
from potstill.data.cache import folder as cache_folder
from potstill.hashing import hash_int
from potstill.language.encode import Encoded
from potstill.language.generation import Ends, Rollout, Sampling, generate
from potstill.language.loader import TextLoader
from potstill.language.views import padded
from potstill.sources import Network, evaluated
from potstill.types import Batch

ROWS = 32
"""Prompts that are answered at once."""


class Rewritten:
    """A loader of the same prompts in the same batches, with the teacher's responses.

    They are written when the first batch is asked for, and kept in Potstill's cache folder under a hash of the teacher,
    the prompts and the sampler, so that every student of the same teacher learns from the same texts. With `beams` > 1
    the most probable text that beam search finds is taken instead of a sample.
    """

    exact = True

    def __init__(
        self,
        loader: TextLoader,
        teacher: Network,
        tokenizer: Any,
        sampling: Sampling,
        ends: Ends,
        *,
        beams: int = 1,
        vocabulary: int | None = None,
        seed: int = 0,
    ):
        self.loader, self.teacher, self.tokenizer = loader, teacher, tokenizer
        self.sampling, self.ends, self.beams, self.vocabulary, self.seed = sampling, ends, beams, vocabulary, seed
        self.steps, self.samples, self.batch_size = loader.steps, loader.samples, loader.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        return self._over.epoch(epoch, start)

    @cached_property
    def _over(self) -> TextLoader:
        over = copy.copy(self.loader)
        over.encoded = self.encoded
        return over

    @property
    def place(self) -> Path:
        """Where the responses are kept."""
        parts = (self.teacher.fingerprint, self.loader.encoded.digest, self.sampling, self.ends, self.beams, self.seed)
        name = hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
        return cache_folder() / "responses" / f"{name}.safetensors"

    @cached_property
    def encoded(self) -> Encoded:
        """The texts with the teacher's responses."""
        if not self.place.is_file():
            rows = self._written()
            flat = torch.from_numpy(np.concatenate(rows).astype(np.int32))
            kept = {"tokens": flat, "lengths": torch.tensor([len(row) for row in rows])}
            write_beside(self.place, lambda path: save_file(kept, path))
        try:
            kept = load_file(self.place)
        except SafetensorError as error:
            raise ValueError(f"{self.place} cannot be read ({error}); delete it, and it is written anew") from error
        rows = np.split(kept["tokens"].numpy(), np.cumsum(kept["lengths"].numpy())[:-1])
        texts = self.tokenizer.batch_decode([row.tolist() for row in rows], skip_special_tokens=True)
        return self.loader.encoded.answering(rows, texts)

    def _written(self) -> list[np.ndarray]:
        model, encoded = self.teacher.module, self.loader.encoded
        device = next(model.parameters()).device
        order = np.argsort(encoded.prompts, kind="stable")
        found: list[np.ndarray] = [np.empty(0)] * len(encoded)
        with evaluated(model), self.teacher.precision.autocast(device):
            for start in range(0, len(order), ROWS):
                some = order[start : start + ROWS]
                prompt, mask = padded([encoded.prompt(row) for row in some], left=True, pad=self.ends.pad)
                rollout = self._answered(model, prompt.to(device), mask.to(device), start)
                tokens, counts = rollout.tokens.cpu().numpy(), rollout.mask.sum(1).tolist()
                for row, ids, count in zip(some, tokens, counts, strict=True):
                    found[row] = ids[:count]
        return found

    def _answered(self, model: Any, prompt: torch.Tensor, mask: torch.Tensor, start: int) -> Rollout:
        if self.beams == 1:
            generator = torch.Generator(prompt.device).manual_seed(hash_int(self.seed, "seqkd", start))
            return generate(model, prompt, mask, self.sampling, self.ends, generator, vocabulary=self.vocabulary)
        tokens = model.generate(
            input_ids=prompt,
            attention_mask=mask,
            num_beams=self.beams,
            do_sample=False,
            max_new_tokens=self.sampling.max_new_tokens,
            eos_token_id=list(self.ends.stop),
            pad_token_id=self.ends.pad,
        )[:, prompt.shape[1] :]
        stops = torch.isin(tokens, torch.tensor(self.ends.stop, device=tokens.device))
        before = stops.cumsum(1) - stops.long()
        return Rollout(tokens, before == 0, ended=stops.any(1))
