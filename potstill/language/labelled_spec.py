"""What a user says about texts that have a class or a score each (`LabelledText`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from potstill.errors import did_you_mean

Kind = Literal["auto", "classes", "scores"]


@dataclass(frozen=True)
class KnownLabels:
    """What is taken for a data set where the user says nothing."""

    hub: tuple[str, ...]
    """Name, and configuration if it has several, on the Hugging Face hub."""
    kind: Kind
    classes: Mapping[str, str] = field(default_factory=dict)
    """What the labels mean."""
    file: None = None


KNOWN = {
    "sst2": KnownLabels(("stanfordnlp/sst2",), "classes", {"0": "negative", "1": "positive"}),
    "stsb": KnownLabels(("nyu-mll/glue", "stsb"), "scores"),
}


@dataclass(frozen=True)
class LabelledText:
    """Which texts, or pairs of texts, with labels to learn from, and how much of them students see."""

    name: str = ""
    """sst2 (sentiment, two classes), stsb (similarity of two sentences, a score), or a Hugging Face name such as
    user/set. Any other name is a label of your own root. Left out, the root's name; without a root, sst2."""
    root: Path | None = None
    """Local data: a folder of train-*, validation-* and test-* files (Parquet, JSON lines, CSV or TSV), or one such
    file, a part of which is then set aside."""
    config: str | None = None
    """Configuration on the Hugging Face hub, of sets that have several."""
    text: str | None = None
    """Column of the texts; left out, the usual names are looked for (sentence, text, sentence1 …)."""
    pair: str | None = None
    """Column of the other text of a pair; left out, the usual partner of the first (sentence2 of sentence1 …)."""
    label: str | None = None
    """Column of the labels; left out, label or score."""
    kind: Kind = "auto"
    """What labels are: classes, scores (a regression), or as they look: whole numbers and words are classes, other
    numbers scores."""
    train_split: str = "train"
    """Name of the training split."""
    valid_split: str | None = None
    """Name of the split to validate on; left out, the first of validation, valid, val, dev, test that there is."""
    held_out: float = 0.1
    """Part of the training texts that is set aside where there is no split to validate on, chosen by a hash of the
    text, so that no text is on both sides."""
    train_rows: int | None = None
    """Use only so many training texts, with the classes as even as they can be."""
    valid_rows: int | None = None
    """Use only so many validation texts, chosen likewise."""
    share: float = 1.0
    """Part of the training texts that students see, a fraction or, above 1, a number of them: others for each seed,
    with the classes as even as they can be. A smaller share lies within a larger one. The teacher sees all."""
    copies: int = 0
    """How many copies of each of these texts students see beside it, with words deleted and swapped."""
    deletion: float = 0.1
    """Probability that a word of a copy is left out."""
    swap: float = 0.1
    """Probability that a word of a copy trades places with another one."""
    max_length: int = 128
    """Most tokens of a text or pair; what is longer is cut off at the end."""
    data_seed: int = 0
    """Seed of the order of batches, and of what is set aside or left out."""

    def __post_init__(self) -> None:
        for name in ("train_rows", "valid_rows"):
            if (value := getattr(self, name)) is not None and value < 2:
                raise ValueError(f"data.{name} must be at least 2, got {value}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out must lie between 0 and 1, got {self.held_out}")
        if not self.share > 0 or (self.share > 1 and self.share != int(self.share)):
            raise ValueError(f"data.share is a part in (0, 1], or a whole number of texts, got {self.share}")
        if self.copies < 0:
            raise ValueError(f"data.copies must not be negative, got {self.copies}")
        for name in ("deletion", "swap"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"data.{name} is a probability in [0, 1), got {getattr(self, name)}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"data.kind is auto, classes or scores, got {self.kind!r}")
        if not self.train_split or self.train_split == self.valid_split:
            raise ValueError(
                f"data.train_split is {self.train_split!r} and data.valid_split {self.valid_split!r}: they must be two "
                "splits"
            )
        if self.root is None and self.title not in KNOWN and "/" not in self.title:
            raise ValueError(
                f"unknown labelled texts {self.title!r}; {did_you_mean(self.name, KNOWN)}; your own files are named "
                "with --data.root"
            )

    @property
    def title(self) -> str:
        """Its name: the given one, or that of its root."""
        return self.name or ("sst2" if self.root is None else self.root.stem)

    @property
    def known(self) -> KnownLabels | None:
        return KNOWN.get(self.title)
