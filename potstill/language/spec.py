"""What a user says about texts to learn from (`Text`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from potstill.errors import did_you_mean
from potstill.language.known import KNOWN, Known

TooLong = Literal["error", "drop", "cut"]
NONE = "none"
"""As a response: the data has prompts only."""


@dataclass(frozen=True)
class Text:
    """Which prompts and responses to learn from, and how to read them.

    What is left out of a data set that is known by name is filled in: its templates, its measures. In templates
    `{column}` is a column of the data, `{{` a brace, and the two characters backslash and n are a newline (which is
    hard to type in a shell). Prompt and response are tokenised apart and put together, with nothing between them, so a
    prompt should end with what separates the two. Prompts are cut on the left, responses on the right.
    """

    name: str = ""
    """multi30k (German to English), dialogsum, gsm8k, instructions (Alpaca), self_instruct, alpaca_eval, evol_instruct,
    ultrafeedback, or a Hugging Face name such as user/set. Any other name is a label of your own root. Left out, the
    root's name; without a root, multi30k."""
    root: Path | None = None
    """Local data: a folder of train-*, validation-* and test-* files (Parquet or JSON lines), or one such file, a part
    of which is then set aside. Lines hold prompt and response, other columns that the templates name, or messages (a
    conversation whose last turn, the assistant's, is the response)."""
    config: str | None = None
    """Configuration on the Hugging Face hub, of sets that have several."""
    prompt: tuple[str, ...] = ()
    """Template of the prompt, e.g. "Translate to English: {de}\\n". Of several, a row takes the first whose columns it
    all has and are not empty."""
    response: str | None = None
    """Template of the response, e.g. "{en}"; none: prompts without responses, for students that write themselves."""
    several_references: bool = False
    """Validation rows with the same prompt are one example with several references."""
    chat: bool = False
    """Show prompts as a user's message, in the tokenizer's chat template. Conversations always are."""
    train_split: str = "train"
    """Name of the training split."""
    valid_split: str | None = None
    """Name of the split to validate on; left out, the first of validation, valid, val, dev, test that there is."""
    held_out: float = 0.1
    """Part of the training rows that is set aside where there is no split to validate on, chosen by a hash of the
    prompt: what is set aside stays so when rows are added, and no prompt is on both sides."""
    extra: tuple[Path, ...] = ()
    """Files of further prompts to train on (Parquet or JSON lines). They have no responses, and then none of the
    training data counts as having them: only texts that networks write can be taught."""
    train_rows: int | None = None
    """Use only the first so many training rows."""
    valid_rows: int | None = None
    """Use only the first so many validation examples."""
    skip_empty: bool = False
    """Leave out rows with an empty prompt or response, instead of stopping."""
    max_prompt: int | None = None
    """Most tokens of a prompt; left out, as many as the network can read."""
    max_response: int | None = None
    """Most tokens of a response, the end-of-text token included; left out, as many as the network can read."""
    too_long: TooLong = "error"
    """What to do with texts that are longer: stop; drop them; or cut them: prompts keep their end, responses their
    beginning, without an end-of-text token."""
    end: str | None = None
    """The token that ends a text, e.g. "</s>", where the tokenizer names none, or another than it names."""
    stop: tuple[str, ...] | None = None
    """Strings at which a generated text is cut before it is scored."""
    measures: tuple[str, ...] = ()
    """What texts are scored with: bleu, chrf, rouge_l, exact, loss, perplexity."""
    data_seed: int = 0
    """Seed of the order of batches, and of what is set aside."""

    def __post_init__(self) -> None:
        for name in ("prompt", "measures", "stop"):  # "abc" is a sequence of strings, too
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))
        for name in ("train_rows", "valid_rows", "max_prompt", "max_response"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"data.{name} must be at least 1, got {value}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out must lie between 0 and 1, got {self.held_out}")
        if self.too_long not in ("error", "drop", "cut"):
            raise ValueError(f"data.too_long is error, drop or cut, got {self.too_long!r}")
        if not self.train_split or self.train_split == self.valid_split:
            raise ValueError(
                f"data.train_split is {self.train_split!r} and data.valid_split {self.valid_split!r}: they must be two "
                "splits"
            )
        if self.root is None and self.title not in KNOWN and "/" not in self.title:
            raise ValueError(
                f"unknown text data {self.title!r}; {did_you_mean(self.name, KNOWN)}; your own files are named with "
                "--data.root"
            )

    @property
    def title(self) -> str:
        """Its name: the given one, or that of its root."""
        return self.name or ("multi30k" if self.root is None else self.root.stem)

    @property
    def known(self) -> Known | None:
        return KNOWN.get(self.title)

    def settled(self) -> Text:
        """With what is known of the data set of that name filled in where the user said nothing. The templates, which
        its columns must fit, are settled when it is read.

        >>> Text("gsm8k").settled().measures
        ('exact',)

        Raises:
            ValueError: a measure that there is not.
        """
        from potstill.language.scores import check  # spec is imported by the command line, scores knows libraries

        known = self.known or Known((), "", ("loss",))
        check(self.measures)
        return replace(
            self,
            name=self.title,
            several_references=self.several_references or known.several_references,
            stop=known.stop if self.stop is None else self.stop,
            measures=self.measures or known.measures,
            skip_empty=self.skip_empty or known.skip_empty,
        )
