"""Run a recipe: a teacher, then every method from the same seeds, one table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from potstill import runs
from potstill.assistants import check_assistants, with_ladder
from potstill.comparison import Comparison, Options
from potstill.data import load
from potstill.evaluation.summary import Cell
from potstill.idle import without_effect
from potstill.methods import Method, parse
from potstill.models import check_name
from potstill.precision import Precision
from potstill.ranks import rank, wait
from potstill.recipe import Recipe
from potstill.setting import Setting, with_views
from potstill.together import groups
from potstill.unlabelled import check_unlabelled, unknown_normalisation, untaught_answers


def run(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train everything of a recipe that is not trained yet; returns the summary that it also writes.

    Raises ValueError for whatever is wrong with the recipe, the data, the networks or the output folder. Before the
    first step that leaves nothing behind.
    """
    return completed(*checked(recipe, options), options, opened, Comparison)


def completed(
    recipe: Any,
    methods: list[Method],
    options: Options,
    opened: Callable[[Any, Options], Any],
    kind: type[Comparison],
) -> dict[str, Any]:
    """The same for any kind of data, once the recipe is checked: `opened` reads it, `kind` trains."""
    values = runs.describe(recipe, options.seed, options.source)
    if rank() == 0:
        runs.check(options.out, values, options.resume)
    setting = opened(recipe, options)
    values["data"] = setting.digests
    setting.check(methods, options.seed)
    with runs.claim(options.out, values, options.resume) if rank() == 0 else nullcontext():
        wait()
        return _compared(setting, options, methods, kind)


def checked(recipe: Recipe, options: Options) -> tuple[Recipe, list[Method]]:
    """A recipe whose mistakes were looked for, as far as they can be told before any data is read, and its methods.

    Raises ValueError for those; says which settings have no effect.
    """
    recipe = with_ladder(recipe)
    methods = [parse(text) for text in recipe.methods]
    _check_names(methods, recipe)
    check_unlabelled(recipe, methods)
    recipe = with_views(recipe)
    for text in without_effect(recipe):
        options.talk.warn(text)
    for text in [*untaught_answers(methods), *unknown_normalisation(recipe)]:
        options.talk.warn(text)
    if options.precision != "auto":
        Precision.named(options.precision)
    return recipe, methods


def opened(recipe: Recipe, options: Options) -> Setting:
    """The recipe with its data on the device and the cache of its teacher, if it has one."""
    talk = options.talk
    train, valid = (images.to(options.device) for images in load(recipe.data, quiet=talk.quiet))
    setting = Setting(recipe, options.device, train, valid).with_cache(options.seed)
    counts = f"{len(train):,} training and {len(valid):,} validation images, {len(train.classes) or 'no'} classes"
    talk.say(f"data: {train.name}, {counts}")
    for note in setting.notes:
        talk.say(f"  {note}")
    if setting.cached is not None:
        views = f"{setting.cached.views} view(s) of each training image"
        talk.say(f"teacher: students learn from the cache {recipe.teacher.cache}, {views}")
    return setting


def _compared(setting: Any, options: Options, methods: list[Method], kind: type[Comparison]) -> dict[str, Any]:
    talk, recipe = options.talk, setting.recipe
    precision, why = runs.settle_precision(
        options.out, options.precision, lambda: setting.measure(methods, options.seed, compiling=True)
    )
    talk.say(f"precision: {why}")
    for method in methods:
        talk.say(f"method {method.name}: {method.plan}")
    cells = [(method, seed) for seed in range(options.seed, options.seed + recipe.seeds) for method in methods]
    with talk.bars(setting.lessons + sum(len(method.stages) for method, _ in cells)) as begin:
        comparison = kind(setting, options, methods, precision, begin)
        comparison.learn_teacher()
        done = _trained(comparison, cells)
    talk.say(runs.waiting(options.out))
    return comparison.finish(done, {"choice": precision.name, "why": why})


def _trained(comparison: Comparison, cells: list[tuple[Method, int]]) -> list[Cell]:
    """One after the other, or side by side where they see the same batches; then one that fails ends only itself."""
    if not comparison.setting.side_by_side:
        return [comparison.cell(method, seed) for method, seed in cells]
    done: list[Cell] = []
    # Seeds of a method together: their students are alike.
    for group in groups(sorted(cells, key=lambda cell: comparison.methods.index(cell[0]))):
        for (method, seed), found in zip(group, comparison.cells(group), strict=True):
            if isinstance(found, Exception):
                raise ValueError(f"{method.name} seed {seed}: {found}") from found
            done.append(found)
    return done


def _check_names(methods: list[Method], recipe: Recipe) -> None:
    for spec in (recipe.teacher, recipe.student, *(one.network for one in recipe.assistants)):
        check_name(spec.name)
    check_assistants(recipe.assistants)
    if recipe.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {recipe.seeds}")
    check_methods(methods)


def check_methods(methods: list[Method], usual: str = "student kd icd") -> None:
    """Raises ValueError for no method, and for two of one name."""
    names = [method.name for method in methods]
    if not names:
        raise ValueError(f"no method to run; write e.g. --methods {usual}")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"method {name!r} is written twice")
