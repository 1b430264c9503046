"""Everything that a run with language models needs, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from potstill.language.models import LanguageModel
from potstill.language.spec import Text
from potstill.recipe import Fit

FIT = Fit(
    epochs=3, batch_size=32, optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup=0.05, clip=1.0
)
"""For small models that begin with random weights; a pretrained one wants a rate of about 1e-5."""


@dataclass(frozen=True)
class LanguageRecipe:
    """One pair of language models, texts to learn from, the methods to compare and the seeds to repeat them with."""

    data: Text = field(default_factory=Text)
    """What to learn from."""
    teacher: LanguageModel = field(default_factory=LanguageModel)
    """The large network."""
    student: LanguageModel = field(default_factory=LanguageModel)
    """The small network."""
    tokenizer: str | None = None
    """Name or folder of the student's tokenizer, and of a teacher without weights; new: one trained on the training
    texts. Left out, the student's own where it comes with weights, else the teacher's, else a new one."""
    teacher_tokenizer: str | None = None
    """Name or folder of the teacher's tokenizer; left out, its own where it comes with weights, else the student's.
    Between two tokenizers gold and uld distil."""
    vocabulary: int = 4096
    """Tokens of a tokenizer that is trained."""
    methods: tuple[str, ...] = ("student", "forward_kl")
    """What to compare, e.g. student (on the data's responses), seqkd, forward_kl, "on_policy+reverse_kl", gkd, skd."""
    seeds: int = 1
    """How often each method is repeated."""
    fit: Fit = FIT
    """How students are trained."""
    tokens: int | None = None
    """Padded tokens of a batch; batches are then of as many texts as fit, and fit.batch_size is not used."""
    teacher_fit: Fit | None = None
    """How the teacher is trained when it has no weights; like the students when left out."""
    judged: int = 200
    """How many validation prompts a network answers, greedily, for the scores of texts. 0: none."""
    title: str = ""
    """One line for the report."""

    def __post_init__(self) -> None:
        if self.judged < 0:
            raise ValueError(f"judged must not be negative, got {self.judged}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")

    def training_of(self, one: None = None) -> Fit:
        """How the teacher is trained."""
        return self.teacher_fit or self.fit
