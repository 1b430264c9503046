"""Whether two networks speak of the same tokens, and how many of their logits are tokens at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from potstill.types import Answer, LazyLogits

PROBES = (
    "Hello, world! It's 9:41; she'd said: “don't”.",
    "0 1 12 123 1234 12345 1,234.56 1e-9 0x1F ½ ² ٣ 四",
    " leading, trailing ",
    "a  b   c\td\n\ne\r\n    indented\u00a0fixed\u3000wide",
    "def f(x):\n    return x ** 2  # 😀 👩\u200d👩\u200d👧 🇩🇪",
    "Größe, façade, naïve, Ångström, ﬁ, Ⅷ, e\u0301 = é",
    "你好，世界。日本語のテキスト。 한국어 문장입니다.",
    "مرحبا بالعالم، שלום עולם, नमस्ते दुनिया, สวัสดีชาวโลก",
    "Привет, мир! Γειά σου Κόσμε. Xin chào thế giới.",
)
"""What both tokenizers cut, beside their special tokens and a conversation in their templates."""
CONVERSATION = (
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4, of course."},
)


@dataclass(frozen=True)
class Difference:
    """The first thing in which two tokenizers differ: what, and what each side makes of it."""

    what: str
    student: str
    teacher: str

    def __str__(self) -> str:
        return f"{self.what} is {self.student} to the student's and {self.teacher} to the teacher's"


def same_tokenizer(student_tokenizer: Any, teacher_tokenizer: Any) -> Difference | None:
    """None if both cut texts into the same ids and name the same tokens by them, else the first difference.

    Texts in several scripts, digits, white space, special tokens and a conversation in either's template are cut by
    both; then all tokens are compared. Which tokens end or fill a text may differ: a base model and its chat model
    have one vocabulary.
    """
    for text in _texts(student_tokenizer, teacher_tokenizer):
        mine, theirs = (
            list(tokenizer(text, add_special_tokens=False)["input_ids"])
            for tokenizer in (student_tokenizer, teacher_tokenizer)
        )
        if mine != theirs:
            return _cut_otherwise(text, mine, theirs)
    mine, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if mine == theirs:
        return None
    sides = (mine, theirs), (theirs, mine)
    _, token = min((n, token) for side, other in sides for token, n in side.items() if n != other.get(token))
    written = ["no token" if token not in side else f"token {side[token]}" for side in (mine, theirs)]
    return Difference(f"{token!r}", *written)


def common_vocabulary(student_tokenizer: Any, teacher_tokenizer: Any) -> int:
    """How many tokens the one vocabulary has: so many columns of logits mean the same on both sides.

    Raises ValueError for two tokenizers, with their first difference, and what to take instead.
    """
    difference = same_tokenizer(student_tokenizer, teacher_tokenizer)
    if difference is not None:
        raise ValueError(
            f"student and teacher have different tokenizers: {difference}; losses that compare tokens one by one "
            "(forward_kl, jsd, kd …) need one tokenizer. gold compares tokens that cover the same bytes, uld sorted "
            "probabilities: both work between two tokenizers"
        )
    return real(student_tokenizer)


def real(tokenizer: Any) -> int:
    """How many columns of logits are tokens; what a network has beyond that is padding to a round number."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def narrowed(answer: Answer, width: int | None) -> Answer:
    """The first `width` columns of logits, those that are tokens, as a view: nothing is copied (None: all).

    Value and gradient are those of logits whose other columns are -inf. Raises ValueError for fewer columns.
    """
    if width is None or answer.shape[-1] == width:
        return answer
    if answer.shape[-1] < width:
        raise ValueError(
            f"a network answers with {answer.shape[-1]} logits, and its tokenizer has {width} tokens; resize the "
            "network's embeddings (resize_token_embeddings), or take the tokenizer that it was trained with"
        )
    if isinstance(answer, LazyLogits):
        bias = None if answer.bias is None else answer.bias[:width]
        return replace(answer, weight=answer.weight[:width], bias=bias)
    if isinstance(answer, Tensor):
        return answer[..., :width]
    raise ValueError("a teacher that is known by its largest log-probabilities has no columns to leave out")


def _texts(*tokenizers: Any) -> Iterator[str]:
    yield from PROBES
    specials = sorted({token for tokenizer in tokenizers for token in tokenizer.all_special_tokens})
    if specials:
        yield "a".join(specials)
    for tokenizer in tokenizers:
        if getattr(tokenizer, "chat_template", None):
            yield tokenizer.apply_chat_template([dict(turn) for turn in CONVERSATION], tokenize=False)


def _cut_otherwise(text: str, mine: list[int], theirs: list[int]) -> Difference:
    """The first ids that differ, and where."""
    place = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    shown = text if len(text) <= 48 else text[:48] + "…"
    sides = [f"{len(ids)} tokens, there {ids[place : place + 3] or 'none'}," for ids in (mine, theirs)]
    return Difference(f"{shown!r}, from token {place} on,", *sides)
