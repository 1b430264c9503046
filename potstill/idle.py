"""Settings that do nothing, said aloud."""

from __future__ import annotations

from potstill.ranks import world_size
from potstill.recipe import Fit, Recipe

WARMING = ("cosine", "linear")
"""Schedules that begin with a warm-up."""


def without_effect(recipe: Recipe) -> list[str]:
    """Sentences about settings that do nothing in this recipe."""
    found = unused(recipe.fit, "fit")
    if recipe.data.views not in (None, 1) and recipe.data.augment == "none":
        found.append(f"data.views={recipe.data.views} has no effect: data.augment is none")
    if recipe.teacher_fit is not None:
        found += unused(recipe.teacher_fit, "teacher_fit")
        if recipe.teacher.taught:
            found.append("teacher_fit has no effect: the teacher has weights and is not trained")
    return found


def unused(fit: Fit, where: str) -> list[str]:
    """Sentences about values of a `Fit` that another of its values switches off."""
    usual = Fit()
    rules = [
        ("momentum", fit.optimizer != "sgd", f"the optimizer is {fit.optimizer}"),
        ("warmup", fit.schedule not in WARMING, f"the schedule is {fit.schedule}, and only cosine and linear warm up"),
        ("milestones", fit.schedule != "milestones", f"the schedule is {fit.schedule}"),
        ("patience", fit.schedule != "plateau", f"the schedule is {fit.schedule}"),
        ("micro_batch", fit.micro_batch is not None and fit.micro_batch >= fit.batch_size, "it holds a whole batch"),
        ("shard", fit.shard and world_size() == 1, "there is one process; start several with torchrun"),
    ]
    return [
        f"{where}.{name}={getattr(fit, name)} has no effect: {why}"
        for name, off, why in rules
        if off and getattr(fit, name) != getattr(usual, name)
    ]
