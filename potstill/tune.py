"""Fair tuning: every method gets equally many trials on images held out of the training set.

A trial multiplies the weight of each term but cross-entropy by a factor between 1/10 and 10, and each temperature by
one between 1/4 and 4, log-uniform and spread by a scrambled Halton sequence; the first trial is the published setting.
The best trial at the last epoch on the held-out images is the method's tuned arm, beside the published one. Trials have
their own teacher, which has not seen the held-out images, and a seed of their own. The test images take no part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from scipy.stats import qmc

from potstill.grid import Grid
from potstill.hashing import hash_int
from potstill.methods import PART, parse
from potstill.objectives import OBJECTIVES

HELD_OUT = 0.1
"""Part of the training images that trials are judged on."""
SEED = 10_000
"""Added to the grid's first seed for the trials: no repetition of the table has it."""
WEIGHT, OPTION = 10.0, 4.0
"""Largest factor either way."""
MARK, TUNED = ".t", "-tuned"


@dataclass(frozen=True)
class Knob:
    """One number of a method string that a trial changes: the weight of a part, or an option of it."""

    part: int
    option: str | None
    usual: float

    def moved(self, parts: list[str], place: float) -> None:
        """Set it to where `place`, in [0, 1), lies on its range."""
        factor = WEIGHT if self.option is None else OPTION
        value = float(f"{self.usual * factor ** (2 * place - 1):.4g}")
        parts[self.part] = _with(parts[self.part], self.option, value)


def trials(text: str, count: int, seed: int = 0) -> list[str]:
    """Method strings to try, the published one first; only that one where there is nothing to tune.

    Raises ValueError for a method string that cannot be read, and for a method whose students learn no classifier.

    >>> trials("kd", 3)[0], len(trials("kd", 3)), trials("student", 3)
    ('kd.t0=ce:0.1+kd:0.9', 3, ['student.t0=ce:1'])
    """
    method = parse(text)
    if not method.classifies:
        raise ValueError(f"method {text!r} cannot be tuned by accuracy: its students learn features and no classifier")
    control = f"~{method.control}" if method.control else ""
    parts = re.split(r"\+(?![^(]*\))", method.expansion)
    knobs = [knob for number, part in enumerate(parts) for knob in _knobs(number, part)]
    found = [f"{_label(text)}{MARK}0={method.expansion}{control}"]
    if not knobs:
        return found
    sequence = qmc.Halton(len(knobs), rng=hash_int(seed, "trials") % 2**32)
    for number, places in enumerate(sequence.random(count - 1).tolist(), 1):
        moved = list(parts)
        for knob, place in zip(knobs, places, strict=True):
            knob.moved(moved, place)
        found.append(f"{_label(text)}{MARK}{number}={'+'.join(moved)}{control}")
    return found


def grid_of_trials(grid: Grid, count: int, seed: int) -> Grid:
    """The grid whose cells are the trials: one seed, and validation on the held-out images.

    Raises ValueError for less than two trials.
    """
    if count < 2:
        raise ValueError(f"--tune {count}: the first trial is the published setting; give at least 2")
    pairs = {}
    for pair, recipe in grid.pairs.items():
        methods = tuple(trial for text in recipe.methods for trial in trials(text, count, seed))
        fit = replace(recipe.fit, evaluate_every=recipe.fit.epochs)
        data = replace(recipe.data, held_out=HELD_OUT)
        pairs[pair] = replace(recipe, methods=methods, seeds=1, fit=fit, data=data)
    return Grid(pairs, title=f"Trials of: {grid.title}", reference=grid.reference)


def with_tuned(grid: Grid, tried: Mapping[str, Any], count: int) -> tuple[Grid, dict[str, Any]]:
    """The grid with a tuned arm for every method whose best trial is not the published setting, and what was found.

    `tried` is the summary of the trials. The test images are read once, after the last epoch.

    Raises ValueError where all trials of a method failed.
    """
    pairs, found, seeds = {}, {}, dict(grid.seeds)
    tops = {
        pair["pair"]: {row["method"]: (row["top1_mean"], row["expansion"]) for row in pair["summary"]["rows"]}
        for pair in tried["pairs"]
    }
    for pair, recipe in grid.pairs.items():
        arms = list(recipe.methods)
        found[pair] = {}
        for text in recipe.methods:
            method = parse(text)
            mine = {name: top for name, top in tops.get(pair, {}).items() if name.rpartition(MARK)[0] == _label(text)}
            if not mine:
                raise ValueError(f"{pair}: all trials of {method.name!r} failed; see the tuning folder's report")
            best = max(mine, key=lambda name: mine[name][0])  # of equals the first
            published = mine.get(f"{_label(text)}{MARK}0", (None, ""))[0]
            values = {"trials": len(mine), "held_out_top1": mine[best][0], "published_held_out_top1": published}
            found[pair][method.name] = {"best": mine[best][1], **values, "published_is_best": best.endswith(f"{MARK}0")}
            if not best.endswith(f"{MARK}0"):
                control = f"~{method.control}" if method.control else ""
                arms.append(f"{_label(text)}{TUNED}={mine[best][1]}{control}")
                if method.name in seeds:
                    seeds[f"{_label(text)}{TUNED}"] = seeds[method.name]
        fit = replace(recipe.fit, evaluate_every=recipe.fit.epochs)
        pairs[pair] = replace(recipe, methods=tuple(arms), fit=fit)
    notes = (
        f"Arms named {TUNED[1:]}: the best of {count} trials per method (weights, and temperatures if it has some) "
        f"on {HELD_OUT:.0%} of the training images, held out; where there is none, the published setting was the best.",
        "The test images were read once, after the last epoch: best is last.",
    )
    return replace(grid, pairs=pairs, seeds=seeds, notes=(*grid.notes, *notes)), found


def _label(text: str) -> str:
    """The method's name as it may stand in front of an equals sign."""
    return re.sub(r"[^\w.+~-]+", "-", parse(text).name).strip("-")


def _knobs(number: int, part: str) -> list[Knob]:
    match = PART.match(part)
    assert match is not None, f"an expansion has parts that can be read, {part!r} cannot"
    kind = OBJECTIVES[match["name"]]
    if match["name"] == "ce" or float(match["weight"]) == 0:  # the labels' weight is the unit of the others
        return []
    usual = {name: value.default for name, value in signature(kind).parameters.items()}
    written = dict(pair.split("=", 1) for pair in (match["options"] or "").split(",") if pair)
    options = [name for name in kind.searched if name in usual]
    return [Knob(number, None, float(match["weight"]))] + [
        Knob(number, name, float(written.get(name, usual[name]))) for name in options
    ]


def _with(part: str, option: str | None, value: float) -> str:
    match = PART.match(part)
    assert match is not None
    pairs = dict(pair.split("=", 1) for pair in (match["options"] or "").split(",") if pair)
    weight = match["weight"]
    if option is None:
        weight = f"{value:g}"
    else:
        pairs[option] = repr(value)
    shown = f"({','.join(f'{k}={v}' for k, v in pairs.items())})" if pairs else ""
    return f"{match['name']}{shown}:{weight}"
