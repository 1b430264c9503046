"""Writes docs/methods/: a page for each method, from its class, and an index. Run it as `python docs/methods.py`."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from potstill.methods import LONE_STUDENT, SIZED, WARM_UP, describe
from potstill.methods_index import MATCHES, MIB, Entry, Paper, entries
from potstill.objectives import OBJECTIVES
from potstill.pairs import FIRST, SAMPLES, Added, tried
from potstill.scheme import Scheme
from potstill.types import Objective

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "methods"
GOLDENS = ROOT / "tests" / "goldens"
INDEX = "README.md"
NOTE = "<!-- Written by docs/methods.py from the class; edit that. -->"
NAMED = {"icd": "Potstill's home method."}
GUIDE = "../language.md"
WRITTEN = "texts, a prompt and its response"
"""What methods are for that a recipe of language models can name."""
NO_SOURCE = "neither the authors' code nor their equations were at hand: what is here is our reading"
HEADINGS = {
    "Shapes:": "Shapes",
    "Defaults": "Defaults",
    "Where we differ:": "Where we differ",
    "The golden": "Where we differ",
    "Raises": "Defaults",
}
"""How a paragraph of a docstring begins, and the section that it belongs to; others stay where they are."""


def pages() -> dict[str, str]:
    """Every file of docs/methods/ by name."""
    found = entries()
    added = tried(FIRST, [entry.method for entry in found]).added
    owned = owners(found)
    made = {f"{entry.name}.md": page(entry, new, owned) for entry, new in zip(found, added, strict=True)}
    return made | {INDEX: index(found, added)}


def index(found: list[Entry], added: tuple[Added, ...]) -> str:
    """The table of all methods, by what they match."""
    lines = [NOTE, "", "# Methods", ""]
    lines += [
        f"{len(found) - 1} methods and the lone student, each under the name that method strings use. *Parameters*"
    ]
    lines += [f"are those trained beside the student's, on {FIRST.teacher} and {FIRST.student} with {FIRST.classes}"]
    lines += [f"classes; where it says [texts]({GUIDE}) a method is for language models. Which methods apply to two"]
    lines += ["other networks, and what they add to them, is told by", "", "```"]
    lines += ["potstill list methods --for resnet32x4 ShuffleV1", "```"]
    for kind, meaning in (MATCHES | {"": "Not yet declared."}).items():
        of_kind = [(e, a) for e, a in zip(found, added, strict=True) if e.kind.matches == kind]
        if not of_kind:
            continue
        lines += ["", f"## {kind.capitalize() or 'Others'}", "", meaning, ""]
        lines += ["| method | year | paper | stands for | stages | parameters |", "|---|---|---|---|---|--:|"]
        for entry, new in of_kind:
            paper = entry.paper
            year, title = paper.year if paper else "", entry.title or "the labels alone"
            stands_for = entry.method.name if entry.method.scheme else entry.method.expansion
            trained = f"{new.parameters:,}" if new.applies else f"[texts]({GUIDE})" if entry.wants else "–"
            cells = (
                f"[{entry.name}]({entry.name}.md)",
                year,
                title,
                f"`{stands_for}`",
                len(entry.method.stages),
                trained,
            )
            lines += [f"| {' | '.join(map(str, cells))} |"]
    return "\n".join(lines) + "\n"


def page(entry: Entry, added: Added, owned: dict[str, str]) -> str:
    """One method: what it is, what it costs, how to run it."""
    kind = entry.kind
    lines = [NOTE, "", f"# {_title(entry)}", ""]
    if entry.paper:
        lines += [cited(entry.paper) + (f" {NAMED[entry.name]}" if entry.name in NAMED else ""), ""]
    lines += list(facts(entry, added))
    lines += described(kind, "The loss")
    for parent in kind.__mro__[1:]:
        if parent is Objective:
            break
        if issubclass(parent, Objective):
            lines += described(parent, f"What it is built on: {parent.__name__}")
    for name, part in parts(entry).items():
        lines += described(part, f"A part of it: {name}")
    lines += how_to_run(entry, kind)
    lines += pinned([golden for golden, name in owned.items() if name == entry.name])
    lines += ["", f"Source: [{_source(kind)}](../../{_source(kind)}) · [all methods]({INDEX})"]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def parts(entry: Entry) -> dict[str, type[Objective]]:
    """Objectives that are no method by themselves, by the name that they have in this one."""
    terms = [term for stage in entry.method.stages for term in stage.terms]
    return {term.label: term.kind for term in terms if term.kind.part_of}


def cited(paper: Paper) -> str:
    """The paper, as one line."""
    where = f"{paper.venue} {paper.year}".strip()
    link = f" [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    return f"{paper.authors.rstrip('.')}. *{paper.title}*. {where}.{link}"


def facts(entry: Entry, added: Added) -> Iterator[str]:
    """The table under the title."""
    yield from ("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows(entry, added)), "")


def rows(entry: Entry, added: Added) -> Iterator[tuple[str, str]]:
    """Its lines."""
    if entry.method.scheme is None:
        yield from objective_rows(entry)
    else:
        yield from scheme_rows(entry, entry.method.scheme)
    pair = f"{FIRST.teacher} and {FIRST.student}, {FIRST.classes} classes"
    trained = f"{added.parameters:,} parameters" if added.parameters else "nothing"
    if entry.wants:
        yield "for", f"{entry.wants}: [language models]({GUIDE})"
    else:
        yield "trains", f"{trained} beside the student ({pair})" if added.applies else added.reason
    if added.buffers >= MIB:
        yield "keeps", f"{added.buffers / MIB:.1f} MiB for {SAMPLES:,} training samples"


def scheme_rows(entry: Entry, scheme: Scheme) -> Iterator[tuple[str, str]]:
    """Of a method that brings more than terms."""
    if scheme.reconstruction:
        yield "reconstruction", NO_SOURCE
    yield "stands for", f"`{entry.method.expansion}`"
    yield "terms", f"`{describe(entry.method.terms)}`"
    yield "matches", scheme.matches
    yield "teacher", "the recipe's" if scheme.needs_teacher else "none"


def objective_rows(entry: Entry) -> Iterator[tuple[str, str]]:
    """Of a method that is a formula."""
    kind = entry.own.kind
    student, teacher = kind.default_taps
    sides = [f"the student's `{student}`" if student else "", f"the teacher's `{teacher}`" if teacher else ""]
    if kind.reconstruction:
        yield "reconstruction", NO_SOURCE
    yield "stands for", f"`{entry.method.expansion}`"
    yield "matches", f"{kind.matches or 'unverified'}: {' with '.join(filter(None, sides))}"
    yield "weight", f"{entry.weight:g}, {kind.weight_from or 'unverified'}"
    if kind.warm_up:
        yield "warm-up", f"the weight grows over the first {kind.warm_up:.1%} of the run"
    yield "relates", {"unit": "each sample by itself", "batch": "samples of the batch to each other"}[kind.scope]
    if kind.needs:
        yield "needs", ", ".join(f"`{name}`" for name in kind.needs)
    if len(entry.method.stages) > 1:
        yield "stages", entry.method.plan.replace("|", "\\|")


def described(kind: type, first: str) -> list[str]:
    """A docstring, in sections."""
    sections: dict[str, list[str]] = {first: []}
    current = first
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(kind.__doc__ or "")):
        if paragraph.startswith(">>>"):
            sections.setdefault("Example", []).append(f"```python\n{paragraph}\n```")
            continue
        start = next((start for start in HEADINGS if paragraph.startswith(start)), None)
        if start is not None:
            current = HEADINGS[start]
            heading = start if start.endswith(":") else ""
            paragraph = paragraph.removeprefix(heading).removeprefix("Defaults: ").strip()
            paragraph = paragraph[0].upper() + paragraph[1:]
        sections.setdefault(current, []).append(mathematics(paragraph))
    lines = []
    for heading, paragraphs in sections.items():
        level = "##" if heading == first else "###"
        lines += ["", f"{level} {heading}", "", "\n\n".join(paragraphs)]
    return lines


def mathematics(text: str) -> str:
    """LaTeX in the two forms that GitHub leaves alone: fenced, and between dollars and backticks."""
    text = re.sub(
        r"\s*\$\$(.+?)\$\$[ \n]*", lambda m: f"\n\n```math\n{_lines(m[1])}\n```\n\n", text, flags=re.DOTALL
    ).strip()
    pieces = re.split(r"(```.*?```|`[^`]*`)", text, flags=re.DOTALL)  # code stays as it is
    return "".join(piece if piece.startswith("`") else re.sub(r"\$([^$]+)\$", _inline, piece) for piece in pieces)


def _inline(found: re.Match[str]) -> str:
    return f"$`{' '.join(found[1].split())}`$"


def how_to_run(entry: Entry, kind: type) -> list[str]:
    """A command and a call, and the options."""
    name, written = entry.name, entry.method.name
    compared = (
        name
        if name == LONE_STUDENT
        else f'{LONE_STUDENT} "{written}"'
        if "(" in written
        else f"{LONE_STUDENT} {written}"
    )
    lines = ["", "## How to run it", ""]
    if entry.wants.startswith(WRITTEN):
        lines += ["```", f"potstill distill translate_small --methods {compared}", "```", ""]
    elif entry.wants:
        lines += [f"As the method `{written}`, for {entry.wants}: [language models]({GUIDE}).", ""]
    else:
        lines += ["```", f"potstill distill --methods {compared}", "```", ""]
        call = f'student = potstill.distill(teacher, student, train_loader, method="{written}", epochs=30)'
        lines += ["```python", call, "```", ""]
    known = inspect.signature(kind).parameters.values()
    options = {p.name: p.default for p in known if p.default is not p.empty and p.name not in SIZED}
    options |= {WARM_UP: kind.warm_up} if getattr(kind, WARM_UP, 0) else {}
    if options and name != LONE_STUDENT:
        written = ", ".join(f"`{key}={_value(value)}`" for key, value in options.items())
        key, value = next(iter(options.items()))
        lines += [f"Options, in brackets behind the name (`{name}({key}={_value(value)})`): {written}."]
    return lines


def pinned(goldens: list[str]) -> list[str]:
    """Which goldens hold it, and whose code computed them."""
    lines = ["", "## What holds it", ""]
    for golden in goldens:
        with np.load(GOLDENS / f"{golden}.npz") as arrays:
            metas = [json.loads(str(arrays[key])) for key in arrays.files if key.endswith(".meta")]
        for origin in sorted({meta["source"] for meta in metas}):
            lines += [f"- golden `{golden}`: value and gradient of {_repositories(origin)}"]
    return lines if goldens else [*lines, "No golden; tests compare it with its formula written out."]


def owners(found: list[Entry]) -> dict[str, str]:
    """The method of each golden file: the one whose docstring names it, else the longest name that it begins with."""
    names = {name: entry.name for entry in found for name, kind in OBJECTIVES.items() if kind is entry.kind}
    names |= {name: entry.name for entry in found for name in OBJECTIVES if OBJECTIVES[name] in parts(entry).values()}
    owned = {}
    for golden in sorted(path.stem for path in GOLDENS.glob("*.npz")):
        told = [entry.name for entry in found if f"`{golden}`" in (inspect.getdoc(entry.kind) or "")]
        fits = [name for name in names if golden == name or golden.startswith(f"{name}_")]
        owned[golden] = told[0] if told and golden not in names else names[max(fits, key=len)]
    return owned


def _repositories(origin: str) -> str:
    found = (part.partition("@") for part in origin.split(" == "))
    return " and ".join(f"[{name}](https://github.com/{name}/tree/{commit})" for name, _, commit in found)


def _title(entry: Entry) -> str:
    """The method's name, and its long name where the file is about it alone."""
    kind = entry.kind
    if entry.name == LONE_STUDENT:
        return "The lone student"
    first = (sys.modules[kind.__module__].__doc__ or "").splitlines()[0]
    long = re.match(rf"{kind.__name__}: (.+?)(?: \([^()]*\d{{4}}\))?[.,]", first)
    return f"{kind.__name__}: {long[1]}" if long else f"{kind.__name__} (`{entry.name}`)"


def _source(kind: type) -> str:
    return f"{kind.__module__.replace('.', '/')}.py"


def _lines(latex: str) -> str:
    return "\n".join(line.strip() for line in latex.strip().splitlines())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)
    sys.stdout.write(f"{len(made)} pages in {FOLDER.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
