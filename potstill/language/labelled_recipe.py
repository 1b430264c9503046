"""Everything that a run on labelled texts needs, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel
from potstill.recipe import Fit

LABELLED_FIT = Fit(
    epochs=3,
    batch_size=32,
    optimizer="adamw",
    lr=5e-4,
    weight_decay=0.01,
    schedule="cosine",
    warmup=0.1,
    clip=1.0,
    drop_last=False,
)
"""For small encoders that begin with random weights; a pretrained one wants a rate of 2e-5 to 5e-5."""


@dataclass(frozen=True)
class LabelledRecipe:
    """Two networks that classify or rate texts, the texts, the methods to compare and the seeds to repeat them with."""

    data: LabelledText = field(default_factory=LabelledText)
    """What to learn from."""
    teacher: LanguageModel = field(default_factory=lambda: LanguageModel("bert"))
    """The large network; it gets a classifier for the data's labels. One whose weights come with a classifier is not
    trained, a pretrained one without is fine-tuned."""
    student: LanguageModel = field(default_factory=lambda: LanguageModel("bert", layers=2))
    """The small network, with a classifier as well."""
    tokenizer: str | None = None
    """Name or folder of the tokenizer of both; left out, the teacher's own, or one trained on the training texts."""
    pieces: Literal["wordpiece", "bpe"] = "wordpiece"
    """What a tokenizer that is trained is: lower-case WordPiece as BERT's, or byte-level pairs as GPT-2's."""
    vocabulary: int = 4000
    """Tokens of a tokenizer that is trained."""
    methods: tuple[str, ...] = ("student", "mixkd")
    """What to compare, e.g. student (labels alone), kd, logit_mse, mixkd, tinybert, minilm+ce. Where labels are scores
    the squared error stands in the place of ce, and mixkd(target=scores) is written so."""
    seeds: int = 1
    """How often each method is repeated."""
    fit: Fit = LABELLED_FIT
    """How students are trained."""
    teacher_fit: Fit | None = None
    """How the teacher is trained when it has no weights for the task; like the students when left out."""
    title: str = ""
    """One line for the report."""

    def __post_init__(self) -> None:
        if self.pieces not in ("wordpiece", "bpe"):
            raise ValueError(f"pieces is wordpiece or bpe, got {self.pieces!r}")
        for role in ("teacher", "student"):
            if getattr(self, role).head == "masked":
                raise ValueError(f"{role}.head is masked; labelled texts need a classifier: leave it out")

    def training_of(self, one: None = None) -> Fit:
        """How the teacher is trained."""
        return self.teacher_fit or self.fit
