"""A network whose texts vLLM writes: for students and teachers that are slow to sample in place."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from potstill.language.extra import silent
from potstill.language.generation import Rollout
from potstill.language.reading import base
from potstill.language.sequences import speaker
from potstill.language.views import PROMPT, PROMPT_MASK
from potstill.language.vllm_generator import VllmGenerator
from potstill.language.writers import Alone
from potstill.ranks import world_size
from potstill.types import Batch, Source


class ByVllm(Alone):
    """As `Alone`, by a vLLM engine that is made before the first text and reads the student's weights before every
    batch; a teacher's once. The weights go through a temporary folder, in memory where the system has one there.

    `engine` are the keywords of `vllm.LLM` (`gpu_memory_utilization` …). Random numbers are vLLM's, seeded by (seed,
    step, row): a resumed run has the same texts where its kernels give the same logits.

    Raises ValueError where vLLM is not installed, and for several ranks, which would each start an engine.
    """

    engine: Mapping[str, Any] = {"gpu_memory_utilization": 0.3}
    _engine: VllmGenerator | None = None

    def write(self, batch: Batch, sources: Mapping[str, Source], generator: torch.Generator) -> Rollout:
        if world_size() > 1:
            raise ValueError(f"{self.method}(writer=vllm) works in one process; with several, each samples by itself")
        network, view = speaker(sources, self.who, self.method), batch.main
        if self._engine is None:
            memory = Path("/dev/shm")
            self._folder = tempfile.mkdtemp(dir=memory if memory.is_dir() else None)
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            with silent():
                base(network).save_pretrained(self._folder)
            self._engine = VllmGenerator(self._folder, **self.engine)
        elif self.who == "student":
            self._engine.refresh(network, self._folder)
        return self._engine(
            view.extras[PROMPT], view.extras[PROMPT_MASK], self.sampling, self.ends, generator.initial_seed()
        )
