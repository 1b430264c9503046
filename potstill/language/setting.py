"""A language recipe made real: its texts as tokens, its networks, sources and loaders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from potstill.cell import assemble, choose_precision
from potstill.engine import Engine
from potstill.evaluation.scores import Measure
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.language import models
from potstill.language.encode import Encoded
from potstill.language.generation import Ends
from potstill.language.judge import Judge
from potstill.language.loader import TextLoader, batches, first
from potstill.language.models import LanguageModel
from potstill.language.pair import Pair
from potstill.language.recipe import LanguageRecipe
from potstill.language.vocabulary import real
from potstill.methods import Method
from potstill.precision import Choice, Precision
from potstill.ranks import rank, world_size
from potstill.recipe import Fit
from potstill.sources import Network as Live
from potstill.tasks.language import Language
from potstill.types import DataInfo, Source

EVALUATION_BATCH = 32
PROBE_ROWS = 4


@dataclass(frozen=True)
class TextSetting(Pair):
    """Everything of a language recipe that is the same for all its cells."""

    recipe: LanguageRecipe
    device: torch.device
    tokenizer: Any
    train: Encoded
    valid: Encoded
    ends: Ends
    longest: int
    """Tokens that a response may have."""
    judge: Judge | None
    notes: list[str]
    fingerprint: str
    """Of the tokenizer."""
    cached: None = None

    @property
    def digests(self) -> dict[str, str]:
        """What tells this data from other data."""
        return {"train": self.train.digest, "valid": self.valid.digest, "tokenizer": self.fingerprint}

    @property
    def learns_from(self) -> dict[str, Any]:
        """What the weights of a teacher depend on, its network and its training left aside."""
        return {**self.digests, "tokens": self.recipe.tokens, "data_seed": self.recipe.data.data_seed}

    @property
    def measures(self) -> list[Measure]:
        """What students are compared by, the first of all."""
        judged = [] if self.judge is None else self.judge.measures
        return [*judged, Measure("loss", "loss", higher=False), Measure("token_accuracy", "next token %")]

    @cached_property
    def task(self) -> Language:
        return Language(
            vocabulary=real(self.tokenizer),
            judge=self.judge,
            ends=self.ends,
            longest=self.longest,
            tokenizer=self.tokenizer,
        )

    def samples(self, most: int) -> list[dict[str, Any]]:
        """What the network that was judged last has answered."""
        return [] if self.judge is None else self.judge.samples[:most]

    def network(self, spec: LanguageModel, role: str, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        """A network of the recipe, initialised as a function of (seed, role)."""
        return models.build(spec, self.tokenizer, hash_int(seed, role), teacher=teacher).to(self.device)

    def student(self, method: Method, seed: int, teacher: Source | None) -> nn.Module:
        """The student before its first step."""
        return self.network(self.recipe.student, "student", seed, None if teacher is None else teacher.module)

    def teacher(self, module: nn.Module, precision: Precision | None = None, spec: LanguageModel | None = None) -> Live:
        """A frozen source."""
        probe = first(self.train, PROBE_ROWS, self.device)
        return source(module, probe, trained=False, preprocess=None, precision=precision or Precision(), task=self.task)

    def examples(self, fit: Fit, seed: int | None, whole: bool = False) -> Examples:
        """Loader and validation data."""
        loader = TextLoader(
            self.train,
            batch_size=None if self.recipe.tokens else fit.batch_size,
            tokens=self.recipe.tokens,
            seed=hash_int(self.recipe.data.data_seed, "shared" if seed is None else seed),
            device=self.device,
            rank=rank(),
            world=world_size(),
            drop_last=fit.drop_last,
        )
        return Examples(
            loader,
            DataInfo(len(self.train), loader.batch_size),
            first(self.train, PROBE_ROWS, self.device),
            lambda: batches(self.valid, EVALUATION_BATCH, self.device),
            lambda: batches(self.train, EVALUATION_BATCH, self.device),
            task=self.task,
        )

    def check(self, methods: list[Method], seed: int) -> None:
        """Build everything once, on throw-away copies, so that mistakes show before the first step."""
        fit = self.recipe.fit
        if not self.train.answered and not self.recipe.teacher.taught:
            raise ValueError(f"the teacher has no weights and would learn from {self.name}, which has prompts only")
        teacher = self.teacher(self.network(self.recipe.teacher, "teacher", seed))
        for method in methods:
            for stage in method.stages:
                engine = assemble(
                    self.student(method, seed, teacher),
                    teacher if method.needs_teacher else None,
                    method,
                    self.examples(fit, seed),
                    fit,
                    stage=stage,
                    **self.others(seed),
                )
                self.check_answered(method, engine)

    def check_answered(self, method: Method, engine: Engine) -> None:
        """Raises ValueError for a method that learns from responses where the data has none and nobody writes any."""
        writes = getattr(engine.task, "sequences", None) is not None or not isinstance(engine.loader, TextLoader)
        if not self.train.answered and not writes:
            raise ValueError(
                f"{method.name} learns from the responses of {self.name}, which has prompts only; take a method in "
                "which a network writes them, e.g. on_policy, skd or seqkd"
            )

    def measure(self, methods: list[Method], seed: int, rounds: int = 3, compiling: bool = False) -> Choice:
        """The fastest precision for a step of these methods that needs no sampling, if there is one."""
        method = next((one for one in reversed(methods) if one.needs_teacher and one.scheme is None), methods[0])
        teacher = self.teacher(self.network(self.recipe.teacher, "teacher", seed))
        return choose_precision(
            self.student(method, seed, teacher),
            teacher.module if method.needs_teacher else None,
            method,
            self.examples(self.recipe.fit, seed),
            self.recipe.fit,
            None,
            None,
            rounds,
            **self.others(seed),
        )
