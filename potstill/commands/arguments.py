"""What stands on the command line, before tyro reads it: the recipe, short names, and flags that do not exist."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from potstill.errors import did_you_mean
from potstill.recipe import Recipe

SHORT = {
    "--data": "--data.name",
    "--method": "--methods",
    "--student": "--student.name",
    "--teacher": "--teacher.name",
}
"""Short for the leaf that people mean."""
SWITCHES = ("--json", "--quiet", "--resume", "--smoke")
"""Flags without a value: a recipe may be named after them."""


def split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The recipe, if one is named first (or after switches), and the rest with short names spelled out."""
    place = next((number for number, word in enumerate(arguments) if word not in SWITCHES), None)
    named = None if place is None or arguments[place].startswith("-") else arguments[place]
    rest = [word for number, word in enumerate(arguments) if named is None or number != place]
    spelled = []
    for word in rest:
        flag, equals, value = word.partition("=")
        spelled.append(SHORT.get(flag, flag) + equals + value)
    return named, spelled


def adapted(recipe: Any, arguments: list[str]) -> Any:
    """Another network has another shape, so the recipe's width and depth go with the recipe's network."""
    for role in ("teacher", "student"):
        spec, name = getattr(recipe, role), value(arguments, f"--{role}.name")
        if name not in (None, spec.name) and isinstance(recipe, Recipe):
            recipe = replace(recipe, **{role: replace(spec, name=name, width=None, depth=None)})
        elif name not in (None, spec.name) and ("/" in name or name[0] in ".~" or name == "teacher"):
            # A stored network, or one made from the teacher, brings the sizes that a new one is given.
            sizes = dict.fromkeys(("layers", "width", "inner", "heads", "kv_heads", "context", "tied"))
            recipe = replace(recipe, **{role: replace(spec, name=name, **sizes, pad_to=1)})
    if recipe.teacher_fit is None and any(word.startswith("--teacher-fit.") for word in arguments):
        recipe = replace(recipe, teacher_fit=recipe.fit)
    return recipe


def flags(values: Any, prefix: str = "--") -> set[str]:
    """Every flag that sets a leaf of a dataclass."""
    found = set()
    for item in fields(values):
        value, flag = getattr(values, item.name), prefix + item.name.replace("_", "-")
        several = value if isinstance(value, tuple) and value and is_dataclass(value[0]) else ()
        if is_dataclass(value):
            found |= flags(value, f"{flag}.")
        elif several:
            found |= {one for number, part in enumerate(several) for one in flags(part, f"{flag}.{number}.")}
        else:
            found |= {flag, f"{prefix}no-{item.name.replace('_', '-')}"} if isinstance(value, bool) else {flag}
    return found


def unknown(arguments: list[str], known: set[str]) -> str | None:
    """What to say about a mistyped flag, with near matches."""
    for word in arguments:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            near = did_you_mean(flag, known)
            return f"no option {flag}; {near if near.startswith('did') else 'potstill distill --help shows them all'}"
    return None


def value(arguments: list[str], flag: str) -> str | None:
    for number, word in enumerate(arguments):
        if word == flag and number + 1 < len(arguments):
            return arguments[number + 1]
        if word.startswith(flag + "="):
            return word.partition("=")[2]
    return None
