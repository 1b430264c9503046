"""MiniLM: one layer's queries, keys and values, and nothing else (Wang et al. 2020, 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from potstill.objectives import MiniLMAttention, MiniLMRelations
from potstill.scheme import Scheme
from potstill.terms import Spec, Term


@dataclass(frozen=True)
class MiniLM(Scheme):
    r"""The student's last layer learns how tokens relate to each other in one layer of the teacher, on any text:

    $$L_2 = \frac{1}{3} \sum_{X \in \{Q, K, V\}} \mathrm{KL}(R^t_X \,\|\, R^s_X), \qquad
      L_1 = \mathrm{KL}(A^t \,\|\, A^s) + \mathrm{KL}(R^t_V \,\|\, R^s_V).$$

    `version=2` is MiniLMv2 (`minilm_relations`): widths, depths and numbers of heads are free. `version=1` is MiniLM
    (`minilm_attention`), the last layers of both, with as many heads. The student's answer is not trained: a classifier
    is fine-tuned afterwards, or a loss of its own stands beside it (`minilm+ce:1`).

    Defaults: `version=2` with `heads=48` relation heads, the authors' for BERT-base, and `layer=0`, the teacher's last;
    for large teachers they take an upper middle one (21 of 24).

    Where we differ: a teacher assistant, which the first paper takes for students of at most half the depth and width,
    is an assistant of the recipe with this method.

    Raises:
        ValueError: another version, or `layer` with version 1.

    >>> [str(side) for side in MiniLM(layer=21).terms()[0].addresses]
    ['student:last.q,last.k,last.v@main', 'teacher:layer21.q,layer21.k,layer21.v@main']
    """

    version: int = 2
    heads: int = 48
    layer: int = 0
    paper: ClassVar[str] = MiniLMRelations.paper
    wants: ClassVar[str] = "transformers that read the same tokens"
    matches: ClassVar[str] = "relations"

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ValueError(f"minilm: version is 1 or 2, got {self.version}")
        if self.layer < 0 or (self.version == 1 and self.layer):
            raise ValueError(
                f"minilm: layer is one of the teacher's, 0 for the last; version 1 takes the last, got {self.layer}"
            )

    def terms(self) -> tuple[Term, ...]:
        if self.version == 1:
            return (Term(MiniLMAttention, name="minilm_attention"),)
        of = f"layer{self.layer}" if self.layer else "last"
        taps = ",".join(f"{of}.{letter}" for letter in "qkv")
        return (Term(Spec.of(MiniLMRelations, heads=self.heads), teacher=taps, name="minilm_relations"),)
