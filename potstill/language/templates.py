"""Rows to strings: templates over columns, and conversations."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.errors import did_you_mean
from potstill.language.tables import kind_of

ROLES = ("system", "user", "assistant", "tool")
PLAIN = "{Role}:\n{content}\n\n"
"""How one turn of a conversation is written where the tokenizer has no chat template; `Assistant:` and a newline
follow the last."""
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """Text with columns in braces.

    >>> Template.of("Translate: {de}\\\\n").fill({"de": ["Hund", "Katze"]}, 1)
    'Translate: Katze\\n'
    """

    text: str
    pieces: tuple[tuple[str, str | None], ...]
    """Literal text, and the column behind it."""

    @classmethod
    def of(cls, text: str) -> Template:
        """Raises ValueError for braces that do not pair."""
        text = text.replace("\\n", "\n")
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"template {text!r}: {error}; write {{{{ and }}}} for braces") from error
        for _, column, form, conversion in parsed:
            if column == "" or form or conversion:
                raise ValueError(f"template {text!r}: braces hold a column's name and nothing else; {{{{ is a brace")
        return cls(text, tuple((literal, column) for literal, column, _, _ in parsed))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column in self.pieces if column is not None))

    def fill(self, columns: Mapping[str, Sequence[str]], row: int) -> str:
        return "".join(text if name is None else text + columns[name][row] for text, name in self.pieces)


def check(messages: Any, where: str) -> Sequence[Message]:
    """A conversation as it should be: turns with a known `role`, and `content` that is text.

    Raises:
        ValueError: anything else; it says which turn, and what was found.
    """
    form = '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f"{where}: messages is {kind_of(messages) if messages else 'empty'}; expected {form}")
    for turn, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            found = ", ".join(map(repr, message)) if isinstance(message, Mapping) else kind_of(message)
            raise ValueError(f"{where}: turn {turn} has {found}; expected role and content, as in {form}")
        if message["role"] not in ROLES:
            raise ValueError(
                f"{where}: turn {turn} is by {message['role']!r}; {did_you_mean(str(message['role']), ROLES)}"
            )
        if not isinstance(message["content"], str):
            raise ValueError(f"{where}: the content of turn {turn} is {kind_of(message['content'])}; expected text")
    return messages


def rendered(messages: Sequence[Message], tokenizer: Any, where: str) -> str:
    """A conversation up to where the assistant is to speak, in the tokenizer's chat template if it has one.

    Raises:
        ValueError: the chat template does not take it.
    """
    if getattr(tokenizer, "chat_template", None):
        try:
            return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # Jinja's, and whatever the template raises
            raise ValueError(f"{where}: the tokenizer's chat template refuses the conversation: {error}") from error
    turns = [PLAIN.format(Role=message["role"].capitalize(), content=message["content"]) for message in messages]
    return "".join(turns) + "Assistant:\n"
