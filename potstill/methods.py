"""Method strings: `"icd+kd"`, `"icd:1.0+kd:0.5"`, `"icd(alpha=0)"`, `"icd~shuffled"`.

A bare method name stands for its paper's terms (`kd` is `ce:0.1+kd:0.9`); a composition puts `ce:1` in front unless
`ce` is written (`ce:0`: no labels); `student` is the lone student, `ce:1`. Every term takes `warm_up`, the fraction of
the run over which its weight grows: `dkd` is `ce:1+dkd(warm_up=0.08333):1`. `~shuffled` replaces the teacher by a
control that answers about another sample. A name of one's own may stand in front: `"dkd=dkd(beta=6)"`.
A scheme (`"dml(peers=3)"`) brings its own terms, label term included; others may be added (`"dml+icd:0.5"`), and one
that it has under the same name is replaced (`"ce:0+dml"`). A modifier changes what the others are fed with:
`"dual+icd+kd"`, `"ema+kd"`, `"skd+jsd"`; one may have usual losses (`"skd"`).
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

from potstill.errors import did_you_mean
from potstill.objectives import OBJECTIVES
from potstill.schedules import WarmUp
from potstill.scheme import Scheme, Several
from potstill.schemes import SCHEMES
from potstill.stages import Stage, stages_of
from potstill.terms import Spec, Term
from potstill.types import Objective

KINDS: Mapping[str, type] = {**OBJECTIVES, **SCHEMES}
"""Everything that a method string may name."""
LONE_STUDENT = "student"
CONTROLS = ("shuffled",)
SIZED = ("samples", "labels", "matched")
"""Arguments that come from the data (like those without a default), not from a method string."""
WARM_UP = "warm_up"
"""The one option that every term takes: over which fraction of the run its weight grows."""
_NAMED = re.compile(r"^(?P<name>[\w.+~-]+)=(?P<formula>.+)$")
Part = tuple[str, dict, float | None]
"""Name, options and weight of a part of a method string."""
PART = re.compile(r"^(?P<name>\w+)(?:\((?P<options>[^()]*)\))?(?::(?P<weight>[^:]+))?$")


@dataclass(frozen=True)
class Method:
    """A method string, expanded. `expansion` is the same with every default written out."""

    name: str
    stages: tuple[Stage, ...]
    expansion: str
    control: str | None = None
    scheme: Scheme | None = None

    @classmethod
    def of(cls, name: str, terms: Sequence[Term], control: str | None = None, scheme: Scheme | None = None) -> Method:
        """From terms; those of methods that have several stages become stages. Without labels it is `ce:0+…`."""
        alone = scheme is None and all(term.label != "ce" for term in terms)
        expansion = ("ce:0+" if alone else "") + describe(terms)
        if scheme is not None:
            expansion = "+".join(filter(None, (_scheme_written(scheme), expansion)))
            terms = [term for term in scheme.around(terms) if term.label != "ce" or term.weight != 0]
        before = () if scheme is None else scheme.before()
        return cls(name, (*before, *stages_of(terms)), expansion, control, scheme)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the main stage."""
        return self.stages[-1].terms

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """One by one."""
        if isinstance(self.scheme, Several):
            return self.scheme.parts
        return () if self.scheme is None else (self.scheme,)

    @property
    def adapting(self) -> tuple[Term, ...]:
        """Terms whose student is another network at inference too."""
        own = Objective.adapt.__func__
        return tuple(term for term in self.terms if term.kind.adapt.__func__ is not own)

    @property
    def classifies(self) -> bool:
        """Whether something trains the student's answer: a student that learns features alone has a classifier that
        stays as it was drawn.
        """
        if self.adapts or any(scheme.classifies for scheme in self.schemes):
            return True
        left = [term.addresses[0] for stage in self.stages for term in stage.terms]
        return any(side is not None and side.source == "student" and "output" in side.taps for side in left)

    @property
    def adapts(self) -> bool:
        """The student that it trains is another network at inference too."""
        return bool(self.adapting) or (self.scheme is not None and self.scheme.adapts)

    @property
    def needs_teacher(self) -> bool:
        return self.compares or any(scheme.needs_teacher for scheme in self.schemes)

    @property
    def compares(self) -> bool:
        """A term of it listens to the teacher."""
        sides = [term.addresses[1] for stage in self.stages for term in stage.terms]
        return any(side is not None and side.source == "teacher" for side in sides)

    @property
    def plan(self) -> str:
        """What is done, in words: the expansion, stage by stage."""
        *first, main = self.stages
        parts = [
            f"{describe(stage.terms)} alone for {Fraction(stage.share).limit_denominator(240)} of the epochs, then "
            for stage in first
        ]
        modified = f"{_scheme_written(self.scheme)}: " if self.scheme is not None else ""
        return modified + "".join(parts) + describe(main.terms) + (f" ({self.control} teacher)" if self.control else "")


def parse(text: str) -> Method:
    """Expand a method string. Raises ValueError that names near matches.

    >>> parse("kd").expansion
    'ce:0.1+kd:0.9'
    >>> parse("icd+kd:0.5").expansion
    'ce:1+icd:1+kd:0.5'
    >>> parse("student").expansion
    'ce:1'
    >>> parse("gentle=icd:0.5").name
    'gentle'
    """
    name = written_out = text.replace(" ", "")
    if named := _NAMED.match(name):
        name, written_out = named["name"], named["formula"]
    formula, tilde, control = written_out.partition("~")
    if tilde and control not in CONTROLS:
        raise ValueError(f"method {text!r}: unknown control {control!r}; {did_you_mean(control, CONTROLS)}")
    parts = [_part(text, part) for part in formula.split("+")] if formula != LONE_STUDENT else []
    schemes = tuple(_scheme(text, *part) for part in parts if part[0] in SCHEMES)
    scheme = schemes[0] if len(schemes) == 1 else _several(text, schemes) if schemes else None
    parts = [part for part in parts if part[0] not in SCHEMES]
    if scheme is not None and not parts and all(one.modifies for one in schemes):
        usual = next((one.losses for one in schemes if one.losses), None)
        if usual is None:
            raise ValueError(f"method {text!r} changes what other losses are fed with; write e.g. {formula}+kd")
        parts = [_part(text, part) for part in usual.split("+")]
    if all(one.modifies for one in schemes):
        parts = _expanded(text, parts)
    if scheme is None and len(parts) > 1:
        parts = [part for part in parts if part[0] != "ce" or part[2] != 0]
    method = Method.of(name, [_term(*part) for part in parts], control or None, scheme)
    unheard = all(one.modifies for one in schemes) and not method.compares
    if method.control and (unheard or not method.needs_teacher):
        raise ValueError(f"method {text!r}: no term of it has a teacher, so {method.control!r} would change nothing")
    return method


def _expanded(text: str, parts: list[Part]) -> list[Part]:
    """With the label term: a bare name's paper terms, or `ce:1` in front."""
    bare = len(parts) == 1 and parts[0][2] is None
    written = OBJECTIVES[parts[0][0]].paper_terms if bare else None
    if written is not None:
        own, options, _ = parts[0]
        return [(n, options if n == own else o, w) for n, o, w in (_part(text, part) for part in written.split("+"))]
    if not any(name == "ce" for name, _, _ in parts):
        return [("ce", {}, 1.0), *parts]
    return parts


def _several(text: str, schemes: tuple[Scheme, ...]) -> Scheme:
    try:
        return Several(schemes)
    except ValueError as error:
        raise ValueError(f"method {text!r}: {error}") from None


def _scheme(text: str, name: str, options: dict, weight: float | None) -> Scheme:
    if weight is not None:
        raise ValueError(
            f"method {text!r}: {name} is several terms, each with a weight of its own; leave out :{weight:g}"
        )
    try:
        return SCHEMES[name](**options)
    except ValueError as error:
        raise ValueError(f"method {text!r}: {error}") from None


def _scheme_written(scheme: Scheme) -> str:
    """As a method string, every option written."""
    if isinstance(scheme, Several):
        return "+".join(map(_scheme_written, scheme.parts))
    name = next(name for name, kind in SCHEMES.items() if kind is type(scheme))
    options = ",".join(f"{item.name}={getattr(scheme, item.name)!r}" for item in fields(scheme))
    return f"{name}({options})" if options else name


def describe(terms: Sequence[Term]) -> str:
    """Terms as a method string, every weight written."""
    return "+".join(_written(term) for term in terms)


def _written(term: Term) -> str:
    options = dict(term.objective.kwargs) if isinstance(term.objective, Spec) else {}
    weight = term.weight
    if isinstance(weight, WarmUp):
        options, weight = {**options, WARM_UP: _rounded(weight.share)}, weight.value
    elif term.kind.warm_up:
        options[WARM_UP] = 0
    shown = f"({','.join(f'{k}={v!r}' for k, v in options.items())})" if options else ""
    return f"{term.label}{shown}:{weight:g}" if isinstance(weight, int | float) else f"{term.label}{shown}:{weight}"


def _term(name: str, options: dict, weight: float | None) -> Term:
    kind, options = OBJECTIVES[name], dict(options)
    value = kind.default_weight if weight is None else weight
    share = options.pop(WARM_UP, _rounded(kind.warm_up))
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"method {name!r}: {WARM_UP} is a fraction of the run, between 0 and 1, got {share!r}")
    return Term(Spec.of(kind, **options), weight=WarmUp(share, value) if share else value, name=name)


def _rounded(share: float) -> float:
    return float(f"{share:.4g}")


def _part(whole: str, part: str) -> Part:
    match = PART.match(part)
    if not match:
        raise ValueError(
            f"method {whole!r}: cannot read {part!r}; write name, name:weight or name(option=value):weight"
        )
    name = match["name"]
    if name == LONE_STUDENT:
        raise ValueError(f"method {whole!r}: {name!r} stands alone; in a composition write ce, its one term")
    if name not in KINDS:
        raise ValueError(f"method {whole!r}: unknown objective {name!r}; {did_you_mean(name, [LONE_STUDENT, *KINDS])}")
    part_of = getattr(KINDS[name], "part_of", None)
    if part_of is not None:
        raise ValueError(f"method {whole!r}: {name!r} is no method by itself but a part of {part_of}")
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
    signature = inspect.signature(KINDS[name]).parameters.values()
    known = {p.name: p.default for p in signature if p.default is not p.empty and p.name not in SIZED}
    if name in OBJECTIVES:
        known[WARM_UP] = 0.0
    options = {}
    for pair in filter(None, (text or "").split(",")):
        key, _, value = pair.partition("=")
        if key not in known:
            raise ValueError(f"method {whole!r}: {name} has no option {key!r}; {did_you_mean(key, known)}")
        if not value:
            raise ValueError(f"method {whole!r}: option {key!r} of {name} has no value; write {key}=value")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value  # a plain word, such as scale=fixed
        usual, given = known[key], options[key]
        whole_number = isinstance(given, int) and not isinstance(given, bool)
        fits = {bool: isinstance(given, bool), int: whole_number, str: isinstance(given, str)}
        fits[float] = whole_number or isinstance(given, float)
        if not fits.get(type(usual), True):
            raise ValueError(
                f"method {whole!r}: option {key!r} of {name} is {type(usual).__name__} ({key}={usual!r}), got {value!r}"
            )
    return options
