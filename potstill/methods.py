"""Method strings: `"icd+kd"`, `"icd:1.0+kd:0.5"`, `"icd(alpha=0)"`, `"icd~shuffled"`.

A bare method name stands for its paper's terms (`kd` is `ce:0.1+kd:0.9`); a composition puts `ce:1` in front unless
`ce` is written; `student` is the lone student, `ce:1`. `~shuffled` replaces the teacher by a control that answers about
another sample.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from dataclasses import dataclass

from potstill.errors import did_you_mean
from potstill.objectives import OBJECTIVES
from potstill.terms import Spec, Term

LONE_STUDENT = "student"
CONTROLS = ("shuffled",)
SIZED = ("samples", "labels")
"""Arguments that come from the data (like those without a default), not from a method string."""
_PART = re.compile(r"^(?P<name>\w+)(?:\((?P<options>[^()]*)\))?(?::(?P<weight>[^:]+))?$")


@dataclass(frozen=True)
class Method:
    """A method string, expanded. `expansion` is what is printed."""

    name: str
    terms: tuple[Term, ...]
    expansion: str
    control: str | None = None

    @property
    def needs_teacher(self) -> bool:
        return any(right is not None and right.source == "teacher" for _, right in (t.addresses for t in self.terms))


def parse(text: str) -> Method:
    """Expand a method string. Raises ValueError that names near matches.

    >>> parse("kd").expansion
    'ce:0.1+kd:0.9'
    >>> parse("icd+kd:0.5").expansion
    'ce:1+icd:1+kd:0.5'
    >>> parse("student").expansion
    'ce:1'
    """
    name = text.replace(" ", "")
    formula, tilde, control = name.partition("~")
    if tilde and control not in CONTROLS:
        raise ValueError(f"method {text!r}: unknown control {control!r}; {did_you_mean(control, CONTROLS)}")
    parts = [_part(text, part) for part in formula.split("+")] if formula != LONE_STUDENT else []
    if len(parts) == 1 and parts[0][2] is None:
        own, options, _ = parts[0]
        written = OBJECTIVES[own].paper_terms
        if written is not None:
            parts = [_part(text, part) for part in written.split("+")]
            parts = [(n, options if n == own else o, w) for n, o, w in parts]
    if not any(part_name == "ce" for part_name, _, _ in parts):
        parts.insert(0, ("ce", {}, 1.0))
    weighted = [(n, o, OBJECTIVES[n].default_weight if w is None else w) for n, o, w in parts]
    terms = tuple(Term(Spec.of(OBJECTIVES[n], **o), weight=w, name=n) for n, o, w in weighted)
    method = Method(name, terms, "+".join(_written(*part) for part in weighted), control or None)
    if method.control and not method.needs_teacher:
        raise ValueError(f"method {text!r}: no term of it has a teacher, so {control!r} would change nothing")
    return method


def describe(terms: tuple[Term, ...]) -> str:
    """The expansion of terms written in Python."""
    return "+".join(
        _written(t.label, dict(t.objective.kwargs) if isinstance(t.objective, Spec) else {}, t.weight) for t in terms
    )


def _written(name: str, options: dict, weight) -> str:
    shown = f"({','.join(f'{k}={v!r}' for k, v in options.items())})" if options else ""
    return f"{name}{shown}:{weight:g}" if isinstance(weight, int | float) else f"{name}{shown}:{weight}"


def _part(whole: str, part: str) -> tuple[str, dict, float | None]:
    match = _PART.match(part)
    if not match:
        raise ValueError(
            f"method {whole!r}: cannot read {part!r}; write name, name:weight or name(option=value):weight"
        )
    name = match["name"]
    if name == LONE_STUDENT:
        raise ValueError(f"method {whole!r}: {name!r} stands alone; in a composition write ce, its one term")
    if name not in OBJECTIVES:
        raise ValueError(
            f"method {whole!r}: unknown objective {name!r}; {did_you_mean(name, [LONE_STUDENT, *OBJECTIVES])}"
        )
    part_of = OBJECTIVES[name].part_of
    if part_of is not None:
        raise ValueError(
            f"method {whole!r}: {name!r} is a formula and no method by itself ({part_of}), and what surrounds it is "
            "not there yet; from Python, potstill.Term takes the formula alone"
        )
    return name, _options(whole, name, match["options"]), _weight(whole, match["weight"])


def _weight(whole: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"method {whole!r}: the weight {text!r} is not a number")
    return weight


def _options(whole: str, name: str, text: str | None) -> dict:
    known = [
        p.name
        for p in inspect.signature(OBJECTIVES[name]).parameters.values()
        if p.default is not p.empty and p.name not in SIZED
    ]
    options = {}
    for pair in filter(None, (text or "").split(",")):
        key, _, value = pair.partition("=")
        if key not in known:
            close = did_you_mean(key, known) if known else "it takes none"
            raise ValueError(f"method {whole!r}: {name} has no option {key!r}; {close}")
        if not value:
            raise ValueError(f"method {whole!r}: option {key!r} of {name} has no value; write {key}=value")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value  # a plain word, such as scale=fixed
    return options
