"""DML: Deep Mutual Learning (2018), peers that teach each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from potstill.objectives import KD, CrossEntropy
from potstill.scheme import Scene, Scheme
from potstill.terms import Spec, Term
from potstill.types import Source


@dataclass(frozen=True)
class DML(Scheme):
    r"""K networks of one architecture learn from the labels and from each other; no teacher.

    $$L_k = \mathrm{CE}(y, p_k) + \frac{w}{K-1} \sum_{l \neq k} \mathrm{KL}(p_l \,\|\, p_k), \qquad T = 1$$

    The student is peer 1, so its initial weights are the lone student's; it is the one that is evaluated and exported.
    All peers step at once on the same batch (the paper's algorithm updates them one after the other and evaluates the
    batch again in between), and each sees the others' answers as constants.

    Defaults: two peers, w = 1, as published.

    Raises:
        ValueError: fewer than two peers.

    >>> [term.label for term in DML().terms()]
    ['ce', 'kd_from_peer2', 'ce_peer2', 'kd_peer2_from_student']
    """

    peers: int = 2
    weight: float = 1.0
    paper: ClassVar[str] = "Zhang, Xiang, Hospedales, Lu: Deep Mutual Learning. CVPR 2018. arXiv:1706.00384"
    matches: ClassVar[str] = "logits"
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.peers < 2:
            raise ValueError(f"dml: peers teach each other, so there must be at least 2, got {self.peers}")

    @property
    def names(self) -> list[str]:
        """Of the sources."""
        return ["student", *(f"peer{number}" for number in range(2, self.peers + 1))]

    def terms(self) -> tuple[Term, ...]:
        formula, share = Spec.of(KD, temperature=1.0), self.weight / (self.peers - 1)
        found = []
        for one in self.names:
            mark = "" if one == "student" else f"_{one}"
            found.append(Term(CrossEntropy, f"{one}:output", None, name=f"ce{mark}"))
            for other in self.names:
                if other != one:
                    name = f"kd{mark}_from_{other}"
                    found.append(Term(formula, f"{one}:output", f"{other}:output", weight=share, name=name))
        return tuple(found)

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        return {name: scene.peer(name) for name in self.names[1:]}
