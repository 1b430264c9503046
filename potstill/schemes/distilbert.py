"""DistilBERT: masked language modelling with a teacher, three losses (Sanh et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from potstill.objectives import KD, CrossEntropy, HiddenCosine
from potstill.scheme import Scene, Scheme
from potstill.tasks.masked_language import MASKED, MaskedLanguage, Masking, ids_of, rarity_of
from potstill.terms import Spec, Term
from potstill.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class DistilBERT(Scheme):
    r"""Student and teacher read the same text with hidden tokens, and the student learns what the teacher predicts,
    what was hidden, and the direction of the teacher's last hidden states:

    $$L = 5 \, T^2 \mathrm{KL}(p_t \,\|\, p_s) + 2 \, \mathrm{MLM} + 1 \, (1 - \cos(h_s, h_t)), \qquad T = 2$$

    The first and the last are means over all tokens that are no padding, or with `only_masked` (the code's
    `restrict_ce_to_mask`) the first over the hidden ones; MLM is the cross-entropy of the hidden ones.

    Defaults: the authors' weights and temperature, `share` 0.15 of the tokens, of which 0.8 become the mask token, 0.1
    stay and 0.1 become any token; `smoothing=0.7`, which hides rare tokens more often, in proportion to count^-0.7
    (tokens are counted in one pass over the data; 0 hides all alike). The ids are those of bert-base-uncased:
    `DistilBERT.of(tokenizer)` takes them from another tokenizer. A student of half the teacher's layers begins with
    every second of them.

    Where we differ: the code draws 15 % of a whole batch, here of each text (on average), so that what is hidden does
    not depend on who shares the batch. Position embeddings are frozen there, here only if the student's are. Where the
    student is not as wide as its teacher a matrix is learnt between the hidden states.

    Raises:
        ValueError: negative weights, a temperature that is not positive, or ids outside the vocabulary.

    >>> [term.label for term in DistilBERT().terms()]
    ['kd', 'mlm', 'cosine']
    """

    soft: float = 5.0
    mlm: float = 2.0
    cosine: float = 1.0
    temperature: float = 2.0
    only_masked: bool = False
    share: float = 0.15
    smoothing: float = 0.7
    mask_id: int = 103
    special: str = "0/100/101/102/103"
    paper: ClassVar[str] = HiddenCosine.paper
    wants: ClassVar[str] = "transformers that read the same tokens"
    matches: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        for name in ("soft", "mlm", "cosine", "smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"distilbert: {name} must not be negative, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"distilbert: temperature must be positive, got {self.temperature}")
        if not 0 < self.share <= 1:
            raise ValueError(f"distilbert: share is a part of the tokens, in (0, 1], got {self.share}")
        ids_of(self.special, "distilbert: special")

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, **kw: Any) -> DistilBERT:
        """With the mask token and the special tokens of a tokenizer. Raises ValueError where it has no mask token."""
        mask = tokenizer.mask_token_id
        if mask is None:
            raise ValueError("distilbert: the tokenizer has no mask token; add one, such as [MASK]")
        special = "/".join(str(number) for number in sorted(tokenizer.all_special_ids))
        return cls(mask_id=cast(int, mask), special=special, **kw)

    def terms(self) -> tuple[Term, ...]:
        where = f"output@{MASKED}" if self.only_masked else "output"
        return (
            Term(Spec.of(KD, temperature=self.temperature), where, where, weight=self.soft, name="kd"),
            Term(CrossEntropy, f"output@{MASKED}", None, weight=self.mlm, name="mlm"),
            Term(HiddenCosine, weight=self.cosine, name="cosine"),
        )

    def task(self, scene: Scene) -> Task:
        student = scene.student.module
        if not hasattr(student, "get_input_embeddings"):
            raise ValueError(
                f"distilbert: the student is a {type(student).__name__} without word embeddings; expected a "
                "transformer that predicts hidden tokens (AutoModelForMaskedLM)"
            )
        count = cast(Any, student).get_input_embeddings().num_embeddings
        masking = Masking(self.mask_id, count, ids_of(self.special, "special"), self.share)
        if self.smoothing:
            texts = scene.examples.plain() if scene.examples.plain else scene.examples.loader.epoch(0)
            masking = replace(masking, rarity=rarity_of(texts, count, self.smoothing))
        return MaskedLanguage(masking)
