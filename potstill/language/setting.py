"""A language recipe made real: its texts as tokens, its networks, sources and loaders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from potstill.engine import Engine
from potstill.evaluation.scores import Measure
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.language import models
from potstill.language.cached import CachedTexts
from potstill.language.crossing import CrossTokenizer
from potstill.language.encode import Encoded
from potstill.language.generation import Ends
from potstill.language.judge import Judge
from potstill.language.loader import TextLoader, batches, first
from potstill.language.models import LanguageModel
from potstill.language.pair import Pair
from potstill.language.recipe import LanguageRecipe
from potstill.language.stores import read_about
from potstill.language.vocabulary import real
from potstill.methods import Method
from potstill.precision import Precision
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
    other: TextSetting | None = None
    """The same texts in the tokens of a teacher that has a tokenizer of its own, sample by sample."""
    crossing: CrossTokenizer | None = None
    """Who shows them to the teacher."""
    cached: CachedTexts | None = None
    """What speaks for the teacher instead of the network."""

    @property
    def digests(self) -> dict[str, Any]:
        """What tells this data from other data."""
        own = {"train": self.train.digest, "valid": self.valid.digest, "tokenizer": self.fingerprint}
        return own if self.other is None else {**own, "teacher": self.other.digests}

    @property
    def learns_from(self) -> dict[str, Any]:
        """What the weights of a teacher depend on, its network and its training left aside."""
        return {**self.digests, "tokens": self.recipe.tokens, "data_seed": self.recipe.data.data_seed}

    @property
    def measures(self) -> list[Measure]:
        """What students are compared by, the first of all."""
        judged = [] if self.judge is None else self.judge.measures
        return [*judged, Measure("loss", "loss", higher=False), Measure("token_accuracy", "next token %")]

    @property
    def task(self) -> Language:
        return Language(
            None if self.crossing is None else self.crossing.around(None),
            lazy=self.crossing is None,
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
        if self.other is not None and role == "teacher":
            return self.other.network(spec, role, seed)
        return models.build(spec, self.tokenizer, hash_int(seed, role), teacher=teacher).to(self.device)

    def student(self, method: Method, seed: int, teacher: Source | None) -> nn.Module:
        """The student before its first step."""
        spec = self.recipe.student
        module = None if teacher is None else teacher.module
        if module is None and spec.derived and self.cached is not None and self.cached.about.served is None:
            module = self.network(self.recipe.teacher, "teacher", seed)
        return self.network(spec, "student", seed, module)

    def teacher(self, module: nn.Module, precision: Precision | None = None, spec: LanguageModel | None = None) -> Live:
        """A frozen source."""
        if self.other is not None:
            return self.other.teacher(module, precision, spec)
        probe = first(self.train, PROBE_ROWS, self.device)
        return source(module, probe, trained=False, preprocess=None, precision=precision or Precision(), task=self.task)

    def with_cache(self, seed: int) -> TextSetting:
        """The same with what stands in for the teacher, where the recipe names one.

        Raises ValueError for a cache that is not whole, or is of another teacher, tokenizer or other texts.
        """
        spec = self.recipe.teacher
        if spec.cache is None:
            return self
        about = read_about(spec.cache)
        now = replace(about, tokenizer=self.fingerprint)
        if about.served is None:
            live = self.teacher(self.network(spec, "teacher", seed), Precision.named(about.precision))
            now = replace(now, teacher=live.fingerprint)
        if different := about.differences(now):
            raise ValueError(
                f"the cache {spec.cache} is not of this recipe's teacher and tokenizer; they differ in "
                f"{'; '.join(different)}; write another with potstill cache, or leave out teacher.cache"
            )
        return replace(self, cached=CachedTexts(spec.cache, self.train))

    def guide(self, seed: int) -> Source:
        """Who speaks for the teacher before it is trained or loaded: the cache, or a network like it."""
        return self.cached or self.teacher(self.network(self.recipe.teacher, "teacher", seed))

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
        info = DataInfo(len(self.train), loader.batch_size)
        return Examples(
            loader,
            info if self.crossing is None else self.crossing.info(info),
            first(self.train, PROBE_ROWS, self.device),
            lambda: batches(self.valid, EVALUATION_BATCH, self.device),
            lambda: batches(self.train, EVALUATION_BATCH, self.device),
            task=self.task,
        )

    def check(self, methods: list[Method], seed: int) -> None:
        """Build everything once, on throw-away copies, so that mistakes show before the first step."""
        if not self.train.answered and not self.recipe.teacher.taught:
            raise ValueError(f"the teacher has no weights and would learn from {self.name}, which has prompts only")
        super().check(methods, seed)

    def check_fit(self, method: Method, engine: Engine) -> None:
        """Raises ValueError for a method in which networks write, where a cache speaks for the teacher, and for one
        that learns from responses where there are none.
        """
        writes = getattr(engine.task, "sequences", None) is not self.task.sequences
        if writes and self.cached is not None and method.needs_teacher:
            raise ValueError(
                f"method {method.name!r}: networks write the texts that it learns from, and the cache "
                f"{self.cached.folder} only repeats what was said of the data's own; leave out teacher.cache"
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

    def guided(self, method: Method, teacher: Source) -> Callable[[Precision], Source] | None:
        """Of two tokenizers, the teacher is looked at on texts in its own."""
        if self.other is None or not method.needs_teacher:
            return None
        return lambda precision: self.teacher(copy.deepcopy(cast(nn.Module, teacher.module)), precision)
