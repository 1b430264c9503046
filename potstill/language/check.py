"""A language recipe looked at before it runs: real steps of throw-away copies on this device, timed and weighed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from potstill import runs
from potstill.cell import assemble
from potstill.check import available
from potstill.comparison import Options
from potstill.engine import Engine
from potstill.footprint import Live
from potstill.language.models import LanguageModel
from potstill.language.recipe import LanguageRecipe
from potstill.language.run import checked, opened
from potstill.language.setting import TextSetting
from potstill.methods import LONE_STUDENT, Method, parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.types import Batch, Source

TEACHER = "teacher"


def check_texts(recipe: LanguageRecipe, options: Options, rounds: int = 5) -> dict[str, Any]:
    """What `potstill check` says of a recipe of language models, as plain values; times in seconds, memory in MiB.

    Of every training a batch of the recipe's own texts is learnt from, `rounds` times after one that warms up. What
    networks write differs in length from what they will write once trained; what the teacher writes before the first
    step (`seqkd`) and the scores of texts are not in the time. Nothing is written, and no random state changes.

    Raises ValueError for whatever is wrong with the recipe or its data.
    """
    recipe, methods = checked(recipe, options)
    with torch.random.fork_rng():
        setting = opened(recipe, options)
        seed, asked = options.seed, options.precision
        choice = setting.measure(methods, seed, rounds) if asked == "auto" else None
        precision = choice.precision if choice else Precision.named(asked)
        guide = setting.teacher(setting.network(recipe.teacher, TEACHER, seed), precision)
        trials = [Trial(setting, method, recipe.fit, seed, precision, guide) for method in methods]
        if not recipe.teacher.taught:
            alone = parse(LONE_STUDENT)
            trials.insert(0, Trial(setting, alone, recipe.training_of(), seed, precision, None, recipe.teacher))
        rows = []
        for trial in trials:
            options.talk.say(f"  {trial.label}: {rounds} steps")
            rows.append(trial.row(rounds))
        student = setting.student(methods[-1], seed, guide)
    often = [1 if row["method"] == TEACHER else recipe.seeds for row in rows]
    return {
        "title": recipe.title,
        "dataset": {"name": setting.name, "train": len(setting.train), "valid": len(setting.valid)},
        "device": str(setting.device),
        "precision": precision.name,
        "why": str(choice) if choice else f"{precision.name}, as asked",
        "networks": [
            {"role": TEACHER, "network": recipe.teacher.name, "parameters": runs.parameters(guide.module)},
            {"role": "student", "network": recipe.student.name, "parameters": runs.parameters(student)},
        ],
        "methods": rows,
        "eta_seconds": round(sum(row["eta_seconds"] * many for row, many in zip(rows, often, strict=True)), 3),
        "peak_mib": max(row["peak_mib"] for row in rows),
        "available_mib": round(available(setting.device) / 2**20, 1),
    }


@dataclass(frozen=True)
class Trial:
    """One network's training, of which a few steps are taken."""

    setting: TextSetting
    method: Method
    fit: Fit
    seed: int
    precision: Precision
    guide: Source | None
    """What the method learns from; None where it is the teacher itself that is trained."""
    spec: LanguageModel | None = None
    """The network, where it is not the student."""

    @property
    def label(self) -> str:
        return TEACHER if self.guide is None else self.method.name

    def engine(self) -> Engine:
        setting, seed = self.setting, self.seed
        module = (
            setting.student(self.method, seed, self.guide)
            if self.spec is None
            else setting.network(self.spec, TEACHER, seed)
        )
        examples = setting.examples(self.fit, seed)
        return assemble(
            module,
            self.guide if self.method.needs_teacher else None,
            self.method,
            examples,
            self.fit,
            precision=self.precision,
            seed=seed,
            evaluated=False,
            **setting.others(seed),
        )

    def row(self, rounds: int) -> dict[str, Any]:
        """Steps, their cost, and how it divides."""
        engine, device = self.engine(), self.setting.device
        engine.begin()
        # The data's own texts, whoever writes what is learnt: what the teacher writes once is not written here.
        batch = next(iter(self.setting.examples(self.fit, self.seed).loader.epoch(0)))
        ready = list(engine.prepared(batch))
        writes = getattr(engine.task, "sequences", None) is not None
        peak = _peak(engine, batch, device)
        times = {"step": _timed(lambda: engine.train_on(batch), rounds, device)}
        times["writing"] = _timed(lambda: list(engine.prepared(batch)), rounds, device) if writes else 0.0
        asked = [pair for pair in engine.system.wanted if not engine.sources[pair[0]].trained]
        times["teacher"] = (
            _timed(lambda: [_heard(engine, part, asked) for part in ready], rounds, device) if asked else 0.0
        )
        tokens = sum(int(one.main.mask.sum()) for one in ready[:1] if one.main.mask is not None)
        steps = engine.loader.steps * self.fit.epochs
        whole = times["step"]
        return {
            "method": self.label,
            "steps": steps,
            "parameters": sum(p.numel() for p in engine.student.parameters() if p.requires_grad),
            "step_ms": round(1000 * whole, 3),
            "writing_share": round(min(1.0, times["writing"] / whole), 4),
            "teacher_share": round(min(1.0, times["teacher"] / whole), 4),
            "response_tokens": tokens,
            "tokens_per_second": round(tokens / whole, 1),
            "peak_mib": peak,
            "eta_seconds": round(steps * whole, 3),
        }


def _heard(engine: Engine, batch: Batch, asked: list[tuple[str, str]]) -> None:
    for source, view in asked:
        engine.sources[source](engine.task, batch, view, engine.system.wanted[(source, view)])


def _peak(engine: Engine, batch: Batch, device: torch.device) -> float:
    """MiB of tensors at the peak of the second step, when the optimizer has its state; on a GPU as it counts them."""
    engine.train_on(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        engine.train_on(batch)
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    live = Live()
    modules = [engine.system, *(one.module for one in engine.sources.values() if one.module is not None)]
    weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    for tensor in (*weights, *tree_leaves(list(engine.optimizer.state.values()))):
        if isinstance(tensor, torch.Tensor):
            live.hold(tensor)
    with live:
        engine.train_on(batch)
    return round(live.peak / 2**20, 1)


def _timed(act: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Median of wall-clock seconds, after one call that allocates."""
    times = []
    for _ in range(rounds + 1):
        _wait(device)
        began = time.perf_counter()
        act()
        _wait(device)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
