"""Networks between teacher and student, and further teachers: trained in the order of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from potstill import checkpoint, runs
from potstill.errors import did_you_mean
from potstill.methods import LONE_STUDENT, parse
from potstill.models import load_weights
from potstill.ranks import rank, wait
from potstill.recipe import Assistant
from potstill.registry import RESULT
from potstill.student import WEIGHTS
from potstill.tasks.classify import Classify
from potstill.together import Trainee

if TYPE_CHECKING:
    from potstill.comparison import Comparison

TEACHER = "teacher"


def check_assistants(assistants: Sequence[Assistant]) -> None:
    """Raises ValueError for a name that is taken, a teacher that is not there before, and a method that makes another
    network.
    """
    known = [TEACHER]
    for one in assistants:
        if not one.name.isidentifier() or one.name in (*known, LONE_STUDENT) or one.name.startswith("peer"):
            raise ValueError(f"assistant {one.name!r}: give each a plain name of its own, such as assistant1")
        if one.teacher not in known:
            raise ValueError(
                f"assistant {one.name!r}: its teacher {one.teacher!r} is not trained before it; "
                + did_you_mean(one.teacher, known)
            )
        _check_start(one, {other.name: other for other in assistants if other.name in known})
        if (method := parse(one.method)).adapting:
            raise ValueError(f"assistant {one.name!r}: {method.name} makes another network of it; take another method")
        known.append(one.name)


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
    if one.start is not None and (begun := comparison.assistants[one.start].module) is not None:
        module.load_state_dict(begun.state_dict())
    fit = one.fit or setting.recipe.teacher_fit or setting.recipe.fit
    if not spec.taught:
        pupil = Trainee(spec, parse(one.method), fit, seed, folder)
        if not pupil.done:
            guide = comparison.teacher if one.teacher == TEACHER else comparison.assistants[one.teacher]
            pupil.module = module
            pupil.engine = comparison.engine(pupil, lambda fit: setting.examples(fit, seed), one.name, guide=guide)
            pupil.engine.run(options.resume)
            result, _ = comparison.kept(pupil)
            if rank() == 0:
                checkpoint.write_json(folder / RESULT, result)
            wait()
        load_weights(module, folder / WEIGHTS)
    live = setting.teacher(module, comparison.precision, spec)
    comparison.assistants[one.name] = live
    found = Classify().evaluate(live, setting.examples(fit, seed).held())
    said: dict[str, Any] = {"name": one.name, "model": spec.name, "parameters": runs.parameters(module)}
    if spec.taught or parse(one.method).classifies:
        options.talk.say(f"{one.name}: {found.top1:.2f} % ({spec.name}, {one.method})")
        return said | {"top1": found.top1}
    options.talk.say(f"{one.name}: {spec.name}, {one.method}; its classifier was not trained with it")
    return said | {"top1": None}
