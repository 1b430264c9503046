"""Networks between teacher and student, and further teachers: trained in the order of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
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
        if (method := parse(one.method)).adapts:
            raise ValueError(f"assistant {one.name!r}: {method.name} makes another network of it; take another method")
        known.append(one.name)


def learn(comparison: Comparison, one: Assistant) -> dict[str, Any]:
    """Train another teacher, or load it, as the recipe says; from then on the comparison's students may listen to it.

    Returns what the summary says of it.
    """
    options, setting = comparison.options, comparison.setting
    spec, folder, seed = one.network, options.out / one.name, options.seed
    module = setting.network(spec, one.name, seed)
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
    options.talk.say(f"{one.name}: {found.top1:.2f} % ({spec.name}, {one.method})")
    return {"name": one.name, "model": spec.name, "parameters": runs.parameters(module), "top1": found.top1}
