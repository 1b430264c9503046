"""Every method as a row: what its class declares, what its paper says, and what it adds to two networks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from potstill.methods import LONE_STUDENT, Method, parse
from potstill.objectives import OBJECTIVES
from potstill.pairs import FIRST, Pair, Tried, tried
from potstill.scheme import Scheme
from potstill.schemes import SCHEMES
from potstill.terms import Term
from potstill.types import Objective

MATCHES = {
    "logits": "The networks' answers, sample by sample.",
    "features": "Activations inside the networks, up to a projection.",
    "relations": "How samples, or layers, relate to each other.",
    "contrast": "A sample's own embedding by the other network, told from those of other samples.",
    "labels": "The labels alone; there is no teacher side.",
}
"""What `Objective.matches` may say, and what it means."""
RELATES = {"unit": "each sample by itself", "batch": "samples of the batch"}
MIB = 2**20


@dataclass(frozen=True)
class Paper:
    """A paper, read from `Objective.paper`. `venue` is empty for a preprint, `arxiv` where none is known.

    >>> Paper.parse("Tung, Mori: Similarity. ICCV 2019. arXiv:1907.09682")
    Paper(authors='Tung, Mori', title='Similarity', venue='ICCV', year=2019, arxiv='1907.09682')
    """

    authors: str
    title: str
    venue: str
    year: int
    arxiv: str = ""

    @classmethod
    def parse(cls, text: str) -> Paper:
        form = r"(?P<authors>[^:]+): (?P<title>.+)\. (?P<venue>[^.]*?) ?(?P<year>\d{4})\.?( arXiv:(?P<arxiv>[\d.]+))?"
        found = re.fullmatch(form, text)
        if found is None:
            raise ValueError(f"paper {text!r}: expected 'Authors: Title. Venue year. arXiv:id'")
        return cls(found["authors"], found["title"], found["venue"], int(found["year"]), found["arxiv"] or "")


@dataclass(frozen=True)
class Entry:
    """A method that stands alone, under its bare name."""

    name: str
    method: Method

    @property
    def own(self) -> Term:
        """The term that the method is named after, wherever in its stages that is."""
        terms = [term for stage in self.method.stages for term in stage.terms]
        return next((term for term in terms if term.label == self.name), terms[0])

    @property
    def weight(self) -> float | str:
        weight = getattr(self.own.weight, "value", self.own.weight)  # what a warm-up grows to
        return weight if isinstance(weight, int | float) else str(weight)

    @property
    def kind(self) -> type[Objective] | type[Scheme]:
        """The class that the method is."""
        return self.own.kind if self.method.scheme is None else type(self.method.scheme)

    @property
    def wants(self) -> str:
        """What data it is for, where that is not any: texts, say."""
        return self.kind.wants

    @property
    def title(self) -> str:
        """Of its paper."""
        if self.paper is not None:
            return self.paper.title
        return "the lone student" if self.name == LONE_STUDENT else ""

    @property
    def paper(self) -> Paper | None:
        return Paper.parse(self.kind.paper) if self.kind.paper else None


def entries() -> list[Entry]:
    """The lone student, then every objective that is a method, and every scheme; `ce` is the lone student again."""
    names = [name for name, kind in OBJECTIVES.items() if kind.part_of is None and name != "ce"]
    written = {name: kind.example for name, kind in SCHEMES.items()}
    return [Entry(name, parse(written.get(name) or name)) for name in (LONE_STUDENT, *sorted((*names, *SCHEMES)))]


def look(pair: Pair | None = None) -> tuple[list[dict[str, Any]], Tried]:
    """A row for each method, and the networks that its parameters and buffers were counted with.

    With a pair the rows say whether the method applies to it; without, they are those of the first pair of
    RepDistiller's tables, to which all methods apply.
    """
    found = entries()
    counted = tried(pair or FIRST, [entry.method for entry in found])
    rows = []
    for entry, added in zip(found, counted.added, strict=True):
        kind, paper = entry.kind, entry.paper
        relates, weight, origin, taps = _wiring(entry)
        fits = {"applies": added.applies, "reason": added.reason} if pair else {}
        rows.append(
            {
                "method": entry.name,
                **fits,
                "year": paper.year if paper else None,
                "matches": kind.matches or "unverified",
                "relates": relates,
                "weight": weight,
                "weight_from": origin,
                "parameters": added.parameters if added.applies else None,
                "MiB": round(added.buffers / MIB, 1) if added.applies else None,
                "stages": len(entry.method.stages),
                # Every option of a scheme would fill the line.
                "stands_for": entry.method.expansion if entry.method.scheme is None else entry.method.name,
                "taps": taps,
                "title": entry.title,
                "wants": entry.wants or None,
                "paper": kind.paper,
            }
        )
    return rows, counted


def _wiring(entry: Entry) -> tuple[str | None, float | str | None, str, list[str]]:
    """What it relates, its weight and where that is from, and its taps; of a scheme each term has its own."""
    if entry.method.scheme is not None:
        return None, None, "several terms", []
    kind = entry.own.kind
    taps = [tap for tap in kind.default_taps if tap is not None]
    return RELATES[kind.scope], entry.weight, kind.weight_from or "unverified", taps
