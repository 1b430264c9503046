"""A recipe looked at before it runs: what its networks are, how long it will take, how much memory, and what for.

Everything happens on throw-away copies of the networks: nothing is written, and no weight or random state changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import psutil
import torch
from torch import nn

from potstill import registry, runs
from potstill.advice import advice
from potstill.assistants import TEACHER
from potstill.cache import read_shard
from potstill.cached import Cached
from potstill.cell import assemble
from potstill.compare import checked, opened
from potstill.comparison import Options
from potstill.costs import macs, measure
from potstill.data import Images, first
from potstill.engine import Engine
from potstill.footprint import Footprint, examination, footprint
from potstill.idle import without_effect
from potstill.methods import LONE_STUDENT, Method, parse
from potstill.precision import Choice, Precision
from potstill.recipe import Fit, Network, Recipe
from potstill.setting import EVALUATION_BATCH, Setting
from potstill.sources import Network as Live
from potstill.stages import Stage
from potstill.types import MAIN, Batch, Source

STUDENT = "student"
"""The role of a network that a method of the table trains."""


@dataclass(frozen=True)
class Trial:
    """One stage of one network's training, to be built as often as it is looked at."""

    setting: Setting
    seed: int
    precision: Precision
    method: Method
    stage: Stage
    spec: Network
    fit: Fit
    teacher: Source | None
    """What the method learns from; None where it is the teacher itself that is trained."""
    batch: Batch
    """One of its training batches."""
    held: Batch
    """One of its evaluation batches."""
    role: str = STUDENT
    """Who is trained: a student, the teacher, or an assistant by name."""

    @property
    def label(self) -> str:
        if self.role != STUDENT:
            return self.role
        return f"{self.method.name} [{self.stage.name}]" if self.stage.name else self.method.name

    def engine(self) -> Engine:
        """A throw-away one, with networks of its own."""
        setting, guide = self.setting, self.teacher
        if guide is not None and guide.module is not None:
            guide = cast(Live, guide).with_module(copy.deepcopy(guide.module))
        module: nn.Module = (
            setting.network(self.spec, self.role, self.seed)
            if self.role != STUDENT
            else setting.student(self.method, self.seed, guide)
        )
        return assemble(
            module,
            guide if self.method.needs_teacher else None,
            self.method,
            setting.examples(self.fit, self.seed, whole=guide is None),
            self.fit,
            stage=self.stage,
            **setting.others(self.seed),
            seed=self.seed,
            preprocess=setting.preprocess(self.spec, self.method),
            precision=self.precision,
            evaluated=not self.stage.name,
        )

    def footprint(self, micro_batch: int | None = None) -> Footprint:
        """What it needs at its peak; with `micro_batch` rows at once where that is given."""
        trial = self if micro_batch is None else replace(self, fit=replace(self.fit, micro_batch=micro_batch))
        rows = None if self.stage.name else self.held.main
        return footprint(trial.engine(), self.batch, rows, _resident(self.setting))


def check(
    recipe: Recipe,
    options: Options,
    *,
    rounds: int = 5,
    precision: Precision | None = None,
    seeds: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Everything that `potstill check` says of one recipe, as plain values; times in seconds, memory in MiB.

    `precision` is the choice of a grid's first pair, `seeds` how often each method is repeated where that is not the
    recipe's. Where the prediction does not fit into the memory that is free, no step is taken and times are None.
    Raises ValueError for whatever is wrong with the recipe or its data.
    """
    recipe, methods = checked(recipe, options)
    with torch.random.fork_rng():
        setting = opened(recipe, options)
        often = {method.name: recipe.seeds for method in methods} | dict(seeds or {})
        return _looked_at(setting, methods, options, rounds, precision, often)


def _looked_at(
    setting: Setting,
    methods: list[Method],
    options: Options,
    rounds: int,
    precision: Precision | None,
    seeds: Mapping[str, int],
) -> dict[str, Any]:
    asked = options.precision
    first_guess = precision or (Precision() if asked == "auto" else Precision.named(asked))
    trials = _trials(setting, methods, options.seed, first_guess)
    feet = [trial.footprint() for trial in trials]
    looked = _examination(setting, options.seed, first_guess)
    free = available(setting.device)
    fits = max(foot.peak for foot in (*feet, looked)) - _resident(setting) <= free
    choice: Choice | None = None
    if fits and precision is None and asked != "float64":
        choice = setting.measure(methods, options.seed, rounds)
        if asked == "auto" and choice.precision != first_guess:
            trials = _trials(setting, methods, options.seed, choice.precision)
            feet = [trial.footprint() for trial in trials]
            looked = _examination(setting, options.seed, choice.precision)
    rows = []
    for trial, foot in zip(trials, feet, strict=True):
        options.talk.say(f"  {trial.label}: " + (f"{rounds} steps" if fits else "no step, it would not fit"))
        rows.append(_row(trial, foot, rounds if fits else 0))
    roles = [trial.role for trial in trials]
    assistants = [
        {"name": role, **row} for role, row in zip(roles, rows, strict=True) if role not in (STUDENT, TEACHER)
    ]
    training = rows[0] if roles[0] == TEACHER else None
    rows = rows[len(roles) - roles.count(STUDENT) :]
    if training and options.teachers and registry.finished(options.teachers / registry.key(setting, options.seed)):
        training = None  # it is there, and is only copied
    found = {
        "title": setting.recipe.title,
        "dataset": {"name": setting.train.name, "train": len(setting.train), "valid": len(setting.valid)},
        "device": str(setting.device),
        "precision": trials[0].precision.name,
        "why": str(choice) if choice and asked == "auto" else f"{trials[0].precision.name}, as asked",
        "milliseconds": choice.milliseconds if choice else None,
        "networks": _networks(setting, methods, options.seed),
        "teacher_training": training,
        "assistants_training": assistants,
        "methods": rows,
        "cells": sum(seeds.values()),
        "eta_seconds": _total(rows, seeds, [training, *assistants]) if fits else None,
        "teacher_evaluation_mib": looked.mib(),
        "peak_mib": max(foot.mib()["peak"] for foot in (*feet, looked)),
        "available_mib": round((free + _resident(setting)) / 2**20, 1),
        "warnings": without_effect(setting.recipe),
    }
    found["suggestions"] = advice(found, setting, methods, trials, asked)
    return found


def available(device: torch.device) -> int:
    """Bytes that are free now: on a GPU those that PyTorch holds and does not use included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def _trials(setting: Setting, methods: list[Method], seed: int, precision: Precision) -> list[Trial]:
    recipe = setting.recipe
    live = setting.teacher(setting.network(recipe.teacher, "teacher", seed), precision)
    guide = setting.cached or setting.limited(live)

    held = _held(setting)
    drawn: dict[int, Batch] = {}

    def of(method: Method, spec: Network, fit: Fit, teacher: Source | None, role: str = STUDENT) -> Iterator[Trial]:
        if fit.batch_size not in drawn:
            drawn[fit.batch_size] = next(iter(setting.examples(fit, seed).loader.epoch(0)))
        batch = drawn[fit.batch_size]
        for stage in method.stages:
            yield Trial(setting, seed, precision, method, stage, spec, stage.fit(fit), teacher, batch, held, role)

    found = []
    if not setting.recipe.teacher.taught:
        found += of(parse(LONE_STUDENT), recipe.teacher, recipe.training_of(), None, TEACHER)
    guides = {TEACHER: guide, **setting.others(seed, precision)["assistants"]}
    for one in recipe.assistants:
        if not one.network.taught:
            found += of(parse(one.method), one.network, recipe.training_of(one), guides[one.teacher], one.name)
    for method in methods:
        found += of(method, recipe.student, recipe.fit, guide)
    return found


def _row(trial: Trial, foot: Footprint, rounds: int) -> dict[str, Any]:
    engine = trial.engine()
    heads = sum(p.numel() for p in engine.system.terms.parameters() if p.requires_grad)
    row: dict[str, Any] = {
        "method": trial.method.name,
        "stage": trial.stage.name,
        "steps": engine.total,
        "parameters": sum(p.numel() for p in engine.system.networks.parameters()),
        "objectives_parameters": heads,
        "memory_mib": foot.mib(),
        "measured_mib": None,
        "taps": list(engine.system.wanted.get(("teacher", MAIN), ())),
    }
    names = ("step_ms", "student_ms", "teacher_ms", "terms_ms", "wait_ms", "evaluation_ms", "wait_share")
    row |= dict.fromkeys((*names, "steps_per_second", "eta_seconds"))
    if not rounds:
        return row
    device = trial.setting.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    costs = measure(engine, trial.batch, None if trial.stage.name else trial.held, rounds)
    if device.type == "cuda":
        row["measured_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    whole = costs.step + costs.wait
    return row | {
        **{f"{name}_ms": round(1000 * getattr(costs, name), 3) for name in ("step", "student", "teacher", "wait")},
        "evaluation_ms": round(1000 * costs.evaluation, 3),
        "terms_ms": {name: round(1000 * seconds, 3) for name, seconds in costs.terms.items()},
        "wait_share": round(costs.wait / whole, 4),
        "steps_per_second": round(1 / whole, 3),
        "eta_seconds": round(engine.total * whole + _evaluations(trial) * costs.evaluation, 3),
    }


def _evaluations(trial: Trial) -> float:
    """How many times as long as the batch that was timed all evaluations of a stage take."""
    if trial.stage.name:
        return 0.0
    fit, count = trial.fit, len(trial.setting.valid)
    often = -(-fit.epochs // fit.evaluate_every) + 1  # and the trained network once more
    return often * count / min(count, EVALUATION_BATCH)


def _total(rows: list[dict[str, Any]], seeds: Mapping[str, int], training: Sequence[Mapping[str, Any] | None]) -> float:
    students = sum(seeds[row["method"]] * row["eta_seconds"] for row in rows)
    return round(students + sum(one["eta_seconds"] for one in training if one), 3)


def _networks(setting: Setting, methods: list[Method], seed: int) -> list[dict[str, Any]]:
    """Teacher, student, and what methods make of the student; multiply-adds for one image."""
    recipe, image = setting.recipe, first(setting.train, 1, setting.device)
    teacher = setting.teacher(setting.network(recipe.teacher, "teacher", seed))
    found: list[tuple[str, str, Live]] = [("teacher", recipe.teacher.name, teacher)]
    others = setting.others(seed)["assistants"]
    found += [(f"assistant {one.name}", one.network.name, others[one.name]) for one in recipe.assistants]
    plain = parse(LONE_STUDENT)
    for method in (plain, *(method for method in methods if method.adapts)):
        module = setting.student(method, seed, teacher if method.adapts else None)
        role = "student" if method is plain else f"student of {method.name}"
        live = Live(module, trained=True, preprocess=setting.preprocess(recipe.student, method))
        found.append((role, recipe.student.name, live))
    return [
        {"role": role, "network": name, "parameters": runs.parameters(live.module), "macs": macs(live, image)}
        for role, name, live in found
    ]


def _examination(setting: Setting, seed: int, precision: Precision) -> Footprint:
    """The teacher is evaluated before it teaches, also where it is not trained here."""
    teacher = setting.teacher(setting.network(setting.recipe.teacher, "teacher", seed), precision)
    return examination(teacher, _held(setting).main, _resident(setting))


def _held(setting: Setting) -> Batch:
    return first(setting.valid, EVALUATION_BATCH, setting.device)


def _resident(setting: Setting) -> int:
    """Bytes on the device throughout: labels, images that are not decoded on the way, a cache's answers for a view."""
    splits = (setting.train, setting.valid)
    tensors = [split.labels for split in splits] + [split.images for split in splits if isinstance(split, Images)]
    return sum(t.numel() * t.element_size() for t in tensors) + (_answers(setting.cached) if setting.cached else 0)


def _answers(cached: Cached) -> int:
    shards = [read_shard(cached.about, cached.folder, 0, shard) for shard in range(cached.about.shards)]
    whole = {name: sum(shard[name].nbytes for shard in shards) for name in shards[0]}
    return sum(size for size in whole.values() if size <= cached.resident)
