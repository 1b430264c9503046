"""A grid: pairs of networks × methods × seeds, as one table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from potstill.data import Data
from potstill.errors import did_you_mean
from potstill.methods import parse
from potstill.recipe import Recipe
from potstill.transfer.protocol import Protocol

PAIRS = "pairs"


@dataclass(frozen=True)
class Job:
    """One piece of a grid: a pair's teacher, one student of it, its table; or the precision that all compute in."""

    pair: str
    kind: Literal["precision", "teacher", "cell", "summary", "transfer"]
    method: str = ""
    seed: int = 0

    def __str__(self) -> str:
        if self.kind == "precision":
            return "precision:"
        return f"{self.pair}: {f'{self.name} seed {self.seed}' if self.kind == 'cell' else self.kind}"

    @property
    def name(self) -> str:
        """Of the method; the kind of a job without one."""
        return parse(self.method).name if self.method else self.kind


@dataclass(frozen=True)
class Grid:
    """Recipes by the name of their pair; every one has its methods and seeds.

    `seeds` gives single methods, by name, another number of repetitions than their recipe does. Against `reference`
    wins, ties and losses are counted.

    Raises ValueError for no pairs, two pairs whose folders would be one, and a number of seeds for a method that no
    recipe has.
    """

    pairs: Mapping[str, Recipe]
    title: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)
    reference: str = "icd"
    notes: tuple[str, ...] = ()
    """Sentences that belong under its table."""
    transfer: tuple[tuple[Data, Protocol], ...] = ()
    """Linear probes of all its networks, when they are trained: on which data, and how."""

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError("the grid has no pairs")
        taken: dict[str, str] = {}
        for pair in self.pairs:
            if (slug := self.slug(pair)) in taken:
                raise ValueError(f"the pairs {taken[slug]!r} and {pair!r} would share the folder {slug!r}")
            taken[slug] = pair
        known = {parse(text).name for recipe in self.pairs.values() for text in recipe.methods}
        for name, count in self.seeds.items():
            if name not in known:
                raise ValueError(f"seeds: no recipe has the method {name!r}; {did_you_mean(name, known)}")
            if count < 1:
                raise ValueError(f"seeds: {name!r} is repeated {count} times; expected at least 1")

    @classmethod
    def of(cls, recipe: Recipe) -> Grid:
        """A grid of one pair."""
        return cls({f"{recipe.teacher.name} → {recipe.student.name}": recipe}, title=recipe.title)

    @staticmethod
    def slug(pair: str) -> str:
        """The name of a pair's folder.

        >>> Grid.slug("wrn_40_2 → wrn_16_2")
        'wrn_40_2-wrn_16_2'
        """
        return re.sub(r"[^\w.]+", "-", pair.replace("→", "-")).strip("-").lower() or "pair"

    def folder(self, pair: str) -> Path:
        """Of a pair, relative to the grid's."""
        return Path(PAIRS) / self.slug(pair)

    def jobs(self, first: int = 0) -> Iterator[Job]:
        """Teachers before their students; seed by seed, so that a table can be read long before the end."""
        for pair, recipe in self.pairs.items():
            yield Job(pair, "teacher")
            counts = {text: self.seeds.get(parse(text).name, recipe.seeds) for text in recipe.methods}
            for seed in range(max(counts.values())):
                yield from (Job(pair, "cell", text, first + seed) for text in counts if seed < counts[text])

    def narrowed(self, pairs: tuple[str, ...] = (), methods: tuple[str, ...] = (), seeds: int | None = None) -> Grid:
        """Only some pairs (by name or folder) or methods, or another number of seeds for all of them.

        Raises ValueError for a pair that is not there.
        """
        by_word = {word: pair for pair in self.pairs for word in (pair, self.slug(pair))}
        for word in pairs:
            if word not in by_word:
                slugs = [self.slug(pair) for pair in self.pairs]
                raise ValueError(f"the grid has no pair {word!r}; {did_you_mean(word, slugs)}")
        kept = dict.fromkeys(by_word[word] for word in pairs) if pairs else self.pairs
        found = {pair: self.pairs[pair] for pair in kept}
        if methods:
            found = {pair: replace(recipe, methods=methods) for pair, recipe in found.items()}
        if seeds is not None:
            found = {pair: replace(recipe, seeds=seeds) for pair, recipe in found.items()}
        names = {parse(text).name for recipe in found.values() for text in recipe.methods}
        own = {} if seeds is not None else {name: count for name, count in self.seeds.items() if name in names}
        return replace(self, pairs=found, seeds=own)
