"""A recipe on labelled texts made real: its texts as tokens, its networks, sources and loaders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from potstill.evaluation.scores import Measure
from potstill.examples import Examples, source
from potstill.hashing import hash_int
from potstill.language import models
from potstill.language.labelled import Labelled
from potstill.language.labelled_examples import PROBED, labelled_examples
from potstill.language.labelled_loader import Tokens, tokenised
from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.labelled_texts import digest, seen
from potstill.language.models import LanguageModel
from potstill.language.networks import configuration
from potstill.language.pair import Pair
from potstill.language.scored import for_scores
from potstill.methods import LONE_STUDENT, Method, parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.sources import Network as Live
from potstill.tasks.text_classify import TextClassify

SCORE = "score"
"""The label that a network which rates texts shows."""


@dataclass(frozen=True, eq=False)
class LabelledSetting(Pair):
    """Everything of a recipe on labelled texts that is the same for all its cells."""

    recipe: LabelledRecipe
    device: torch.device
    tokenizer: Any
    train: Labelled
    valid: Labelled
    notes: list[str]
    fingerprint: str
    """Of the tokenizer."""
    cached: None = None
    _parts: dict[int | None, Tokens] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called, in the order of the outputs; of a score one name."""
        meaning = self.recipe.data.known.classes if self.recipe.data.known else {}
        known = set(meaning) == set(self.train.names)
        return tuple(meaning[name] if known else name for name in self.train.names) or (SCORE,)

    @property
    def digests(self) -> dict[str, str]:
        """What tells this data from other data."""
        return {"train": digest(self.train), "valid": digest(self.valid), "tokenizer": self.fingerprint}

    @property
    def learns_from(self) -> dict[str, Any]:
        """What the weights of a teacher depend on, its network and its training left aside."""
        data = self.recipe.data
        return {**self.digests, "max_length": data.max_length, "data_seed": data.data_seed}

    @property
    def measures(self) -> list[Measure]:
        """What students are compared by, the first of all."""
        loss = Measure("loss", "loss", higher=False)
        if self.train.names:
            return [Measure("accuracy", "accuracy %"), loss]
        return [Measure("pearson", "Pearson x100"), Measure("spearman", "Spearman x100"), loss]

    @property
    def task(self) -> TextClassify:
        return TextClassify()

    @property
    def alone(self) -> Method:
        method = parse(LONE_STUDENT)
        return method if self.train.names else for_scores(method)

    def samples(self, most: int) -> list[dict[str, Any]]:
        """Nothing is written."""
        return []

    def taught(self, spec: LanguageModel) -> bool:
        """A pretrained network without a classifier is fine-tuned."""
        return spec.taught and any("Classification" in one for one in configuration(spec).architectures or ())

    def network(self, spec: LanguageModel, role: str, seed: int, teacher: nn.Module | None = None) -> nn.Module:
        asked = replace(spec, head="classify", labels=self.train.outputs)
        if self.taught(spec):
            _same_classes(spec, self.classes)
        network: Any = models.build(asked, self.tokenizer, hash_int(seed, role), teacher=teacher)
        network.config.id2label = dict(enumerate(self.classes))
        network.config.label2id = {name: number for number, name in enumerate(self.classes)}
        network.config.problem_type = "single_label_classification" if self.train.names else "regression"
        return network.to(self.device)

    def teacher(self, module: nn.Module, precision: Precision | None = None, spec: LanguageModel | None = None) -> Live:
        probe = next(self._tokens(None).batches(PROBED, self.device))
        return source(module, probe, trained=False, preprocess=None, precision=precision or Precision(), task=self.task)

    def examples(self, fit: Fit, seed: int | None, whole: bool = False) -> Examples:
        order = hash_int(self.recipe.data.data_seed, "shared" if seed is None else seed)
        return labelled_examples(
            self._tokens(None if whole else seed), self._valid, fit, seed=order, device=self.device
        )

    @cached_property
    def _valid(self) -> Tokens:
        return tokenised(self.valid, self.tokenizer, self.recipe.data.max_length)

    def _tokens(self, seed: int | None) -> Tokens:
        """Of the texts that the students of a seed see; of all without one."""
        data = self.recipe.data
        seed = None if data.share == 1 and not data.copies else seed
        if seed not in self._parts:
            texts = self.train if seed is None else seen(self.train, data, seed)
            self._parts[seed] = tokenised(texts, self.tokenizer, data.max_length)
        return self._parts[seed]


def _same_classes(spec: LanguageModel, classes: tuple[str, ...]) -> None:
    """Raises ValueError for a classifier with the same names of classes in another order: it would be taught wrong."""
    names = configuration(spec).id2label or {}
    theirs = [str(names[number]) for number in sorted(names)]
    ours = [name.lower() for name in classes]
    if len(theirs) != len(ours):
        raise ValueError(f"{spec.name} tells {len(theirs)} classes apart, and the data has {len(ours)}")
    if sorted(name.lower() for name in theirs) == sorted(ours) != [name.lower() for name in theirs] != ours:
        raise ValueError(
            f"{spec.name} has the classes in the order {', '.join(theirs)}, and the data in the order "
            f"{', '.join(classes)}; set its id2label right, or number the labels likewise"
        )
