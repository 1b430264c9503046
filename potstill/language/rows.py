"""Rows of a table to prompts and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from potstill.errors import did_you_mean
from potstill.language.known import ALPACA, MESSAGES, PROMPTS, RESPONSES
from potstill.language.spec import NONE, Text
from potstill.language.tables import MISSING, Table, kind_of
from potstill.language.templates import Template, check, rendered


def written(
    table: Table, spec: Text, tokenizer: Any = None, answered: bool = True
) -> tuple[list[str], list[str] | None]:
    """The prompt and the response of every row; None where there are prompts only, or none but these are asked for
    (`answered=False`). A prompt none of whose columns holds anything is empty.

    Raises:
        ValueError: columns that are not there, values that are not text, or conversations that are none.
    """
    answered = answered and spec.response != NONE
    if _conversing(table, spec):
        prompts, responses = _conversations(table, tokenizer)
        return prompts, responses if answered else None
    asked, answer = _asked(table, spec), _answer(table, spec) if answered else None
    needed = {*asked[-1].columns, *(answer.columns if answer else ())}
    columns = {
        name: _strings(table, name, name not in needed)
        for name in sorted(needed | {name for template in asked for name in template.columns})
    }
    prompts = [_first(asked, columns, row) for row in range(len(table))]
    if spec.chat:
        prompts = [
            prompt and rendered([{"role": "user", "content": prompt}], tokenizer, table.where(row))
            for row, prompt in enumerate(prompts)
        ]
    return prompts, None if answer is None else [answer.fill(columns, row) for row in range(len(table))]


def templated(table: Table, spec: Text) -> bool:
    """Whether prompts are written in a tokenizer's chat template."""
    return spec.chat or _conversing(table, spec)


def _conversing(table: Table, spec: Text) -> bool:
    return not spec.prompt and MESSAGES in table.names


def _asked(table: Table, spec: Text) -> list[Template]:
    """The templates of prompts: the user's; else those of a known set, as far as the table has their columns; else one
    of what usual columns there are."""
    if spec.prompt:
        return [_checked(Template.of(text), table, "prompt") for text in spec.prompt]
    there = set(table.names)
    known = [Template.of(text) for text in (spec.known.prompt if spec.known else ())]
    if fitting := [template for template in known if there.issuperset(template.columns)]:
        return fitting
    column = next((name for name in PROMPTS if name in there), None)
    if column is None:
        raise ValueError(
            f"{table.files[0]}: no telling which columns are the prompt; its columns are {', '.join(table.names)}; "
            'name them with --data.prompt, e.g. "Question: {question}\\n"'
        )
    if column == "instruction" and "output" in there:
        return [Template.of(text) for text in ALPACA if there.issuperset(Template.of(text).columns)]
    return [Template.of("{" + column + "}")]


def _answer(table: Table, spec: Text) -> Template:
    """The template of responses, found in the same way."""
    if spec.response:
        return _checked(Template.of(spec.response), table, "response")
    there = set(table.names)
    if spec.known and there.issuperset((known := Template.of(spec.known.response)).columns):
        return known
    column = next((name for name in RESPONSES if name in there), None)
    if column is None:
        raise ValueError(
            f"{table.files[0]}: no telling which column is the response; its columns are {', '.join(table.names)}; "
            'name it with --data.response, e.g. "{answer}", or say none: prompts without responses'
        )
    return Template.of("{" + column + "}")


def _checked(template: Template, table: Table, option: str) -> Template:
    for name in template.columns:
        if name not in table.names:
            raise ValueError(
                f"{table.files[0]} has no column {name!r}, which data.{option} {template.text!r} names; "
                f"{did_you_mean(name, table.names)}"
            )
    if not template.columns:
        raise ValueError(
            f"data.{option} {template.text!r} names no column: every row would have the same {option}; write a column "
            f"in braces: {', '.join(table.names)}"
        )
    return template


def _strings(table: Table, name: str, optional: bool) -> list[str]:
    """A column of text; what is null is empty, and of an `optional` one what is missing in a line."""
    values = table.column(name)
    if all(type(value) is str for value in values):  # the usual case, at once
        return list(values)
    found = []
    for row, value in enumerate(values):
        if value is MISSING and not optional:
            there = [other for other in table.names if table.column(other)[row] is not MISSING]
            raise ValueError(
                f"{table.where(row)} has no {name!r}; {did_you_mean(name, there)}; templates are set with "
                "--data.prompt and --data.response"
            )
        if value is not MISSING and value is not None and not isinstance(value, str):
            shown = f" ({value})" if isinstance(value, int | float) else ""
            raise ValueError(f'{table.where(row)}: {name!r} is {kind_of(value)}{shown}; expected text, such as "Red."')
        found.append(value if isinstance(value, str) else "")
    return found


def _first(templates: Sequence[Template], columns: Mapping[str, Sequence[str]], row: int) -> str:
    """The row in the first template all of whose columns hold something, in the last where there is none."""
    *special, usual = templates
    for template in special:
        if all(columns[name][row].strip() for name in template.columns):
            return template.fill(columns, row)
    # Without a word from the data a prompt is empty, whatever the template puts around it.
    return usual.fill(columns, row) if any(columns[name][row].strip() for name in usual.columns) else ""


def _conversations(table: Table, tokenizer: Any) -> tuple[list[str], list[str] | None]:
    prompts, responses, open_ended = [], [], []
    for row, value in enumerate(table.column(MESSAGES)):
        where = table.where(row)
        messages = check([] if value is MISSING else value, where)
        answered = messages[-1]["role"] == "assistant"
        if answered and len(messages) == 1:
            raise ValueError(f"{where}: the assistant speaks without having been asked; begin with a user's turn")
        prompts.append(rendered(messages[:-1] if answered else messages, tokenizer, where))
        responses.append(messages[-1]["content"] if answered else "")
        open_ended.append(not answered)
    if all(open_ended):
        return prompts, None
    if any(open_ended):
        row = open_ended.index(True)
        raise ValueError(
            f"{table.where(row)}: the last turn is not the assistant's ({sum(open_ended)} of {len(open_ended)} "
            "conversations); add the response, or set data.response to none to use prompts alone"
        )
    return prompts, responses
