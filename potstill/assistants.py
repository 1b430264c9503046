"""Networks between teacher and student, and further teachers: trained in the order of the recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from potstill import checkpoint, registry, runs
from potstill.errors import did_you_mean
from potstill.methods import LONE_STUDENT, parse
from potstill.models import load_weights
from potstill.ranks import rank, wait
from potstill.recipe import Assistant, Recipe
from potstill.registry import RESULT
from potstill.student import WEIGHTS
from potstill.tasks.classify import Classify
from potstill.together import Trainee
from potstill.types import Source

if TYPE_CHECKING:
    from potstill.comparison import Comparison

TEACHER = "teacher"


def check_assistants(assistants: Sequence[Assistant]) -> None:
    """Raises ValueError for a name that is taken, a teacher that is not there before, and a method that makes another
    network.
    """
    known = [TEACHER]
    for one in assistants:
        check_name(one.name, known)
        if one.teacher not in known:
            raise ValueError(
                f"assistant {one.name!r}: its teacher {one.teacher!r} is not trained before it; "
                + did_you_mean(one.teacher, known)
            )
        _check_start(one, {other.name: other for other in assistants if other.name in known})
        if (method := parse(one.method)).adapts:
            raise ValueError(f"assistant {one.name!r}: {method.name} makes another network of it; take another method")
        known.append(one.name)


def check_name(name: str, taken: Container[str] = ()) -> None:
    """Raises ValueError for a name that terms cannot write, or that somebody has."""
    if not name.isidentifier() or name in (TEACHER, LONE_STUDENT) or name in taken or name.startswith("peer"):
        raise ValueError(f"assistant {name!r}: give each a plain name of its own, such as assistant1")


def with_ladder(recipe: Recipe) -> Recipe:
    """The recipe with its ladder written out: each network learns by KD from the one before, and the first from the
    teacher.

    They are named after their models, and see images as the student does. Raises ValueError for a ladder beside
    assistants, and for a model that is on it twice.
    """
    if not recipe.ladder:
        return recipe
    if recipe.assistants:
        raise ValueError("the recipe has assistants of its own; leave out ladder, or the assistants")
    found: list[Assistant] = []
    for model in recipe.ladder:
        name = re.sub(r"\W+", "_", model)
        if name in [one.name for one in found]:
            raise ValueError(f"ladder: {model!r} stands on it twice; each is another network, from strong to weak")
        network = replace(recipe.student, name=model, checkpoint=None, pretrained=False, width=None, depth=None)
        found.append(Assistant(name, network, teacher=found[-1].name if found else TEACHER))
    return replace(recipe, assistants=tuple(found), ladder=())


def _check_start(one: Assistant, earlier: Mapping[str, Assistant]) -> None:
    if one.start is None:
        return
    if one.start not in earlier:
        near = did_you_mean(one.start, earlier) if earlier else "there is none before it"
        raise ValueError(f"assistant {one.name!r}: it cannot start from {one.start!r}, no assistant before it; {near}")
    ours, theirs = ((spec.name, spec.width, spec.depth) for spec in (one.network, earlier[one.start].network))
    if ours != theirs:
        raise ValueError(
            f"assistant {one.name!r}: it is a {ours[0]} and cannot start from {one.start!r}, which is another network "
            f"({theirs[0]})"
        )
    if one.network.taught:
        raise ValueError(f"assistant {one.name!r}: it has weights of its own, so it cannot start from {one.start!r}")


def learn(comparison: Comparison, one: Assistant) -> dict[str, Any]:
    """Train another teacher, or load it, as the recipe says; from then on the comparison's students may listen to it.

    Returns what the summary says of it.
    """
    options, setting = comparison.options, comparison.setting
    spec, folder, seed = one.network, options.out / one.name, options.seed
    module = setting.network(spec, one.name, seed)
    card = {"name": one.name, "model": spec.name, "parameters": runs.parameters(module)}
    fit = setting.recipe.training_of(one)
    if one.start is not None and (begun := comparison.assistants[one.start].module) is not None:
        module.load_state_dict(begun.state_dict())
    if not spec.taught:
        pupil = Trainee(spec, parse(one.method), fit, seed, folder)
        pupil.module = module
        guide = comparison.teacher if one.teacher == TEACHER else comparison.assistants[one.teacher]
        heard = [guide, *comparison.assistants.values()] if pupil.method.scheme is not None else [guide]
        heard += [comparison.assistants[one.start]] if one.start is not None else []
        taught_by = "+".join(source.fingerprint for source in heard if source is not None)
        teach(comparison, pupil, registry.key(setting, seed, one, taught_by), one.name, guide)
        load_weights(module, folder / WEIGHTS)
        kept = json.loads((folder / RESULT).read_text())
        card |= {name: kept[name] for name in ("seconds", "key") if name in kept}
    live = setting.teacher(module, comparison.precision, spec)
    comparison.assistants[one.name] = live
    if not spec.taught and not parse(one.method).classifies:
        options.talk.say(f"{one.name}: {spec.name}, {one.method}; its classifier was not trained with it")
        return card | {"top1": None}
    card["top1"] = Classify().evaluate(live, setting.examples(fit, seed).held()).top1
    options.talk.say(f"{one.name}: {card['top1']:.2f} % ({spec.name}, {one.method})")
    return card


def teach(comparison: Comparison, pupil: Trainee, key: str, label: str, guide: Source | None = None) -> None:
    """Train a network that others will learn from into its folder, if it does not lie there already.

    Where teachers are shared, through theirs: what lies there under `key` is only copied.
    """
    options, folder, seed = comparison.options, pupil.folder, pupil.seed
    if registry.finished(folder):
        return
    shared = options.teachers / key if options.teachers else None
    place = shared or folder
    with registry.locked(place) if shared and rank() == 0 else nullcontext():
        if not registry.finished(place):
            pupil.folder = place
            examples = comparison.setting.examples
            # A call budget, and the part of the data that goes with it, concern those who are taught.
            whole = guide is None
            pupil.engine = comparison.engine(pupil, lambda fit: examples(fit, seed, whole=whole), label, guide=guide)
            pupil.engine.run(options.resume)
            result, _ = comparison.kept(pupil)
            if rank() == 0:
                checkpoint.write_json(place / RESULT, {**result, "key": place.name} if shared else result)
        if shared and rank() == 0:
            registry.copy(shared, folder)
    wait()
