"""One job of a grid, as a worker does it."""

from __future__ import annotations

import hashlib
import io
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from potstill import checkpoint, registry, runs
from potstill.compare import checked, opened
from potstill.comparison import Comparison, Options
from potstill.console import Talk
from potstill.evaluation.summary import Cell
from potstill.grid import Job
from potstill.loop import Interrupted
from potstill.methods import Method, parse
from potstill.models import load_weights
from potstill.precision import Precision
from potstill.recipe import Recipe
from potstill.registry import RESULT
from potstill.student import save_student
from potstill.tasks.classify import Classify
from potstill.teachers import examine

ERROR = "error.txt"


@dataclass(frozen=True)
class Plan:
    """What every worker is told."""

    out: Path
    seed: int = 0
    precision: str = "auto"
    teachers: Path | None = None
    source: str | None = None
    aloud: bool = False
    """The worker is the process that the user looks at: bars are shown."""


@dataclass(frozen=True)
class Failed:
    """Stands for the value of a job that came to nothing while others beside it went on."""

    why: str


def work(
    jobs: Sequence[Job], recipe: Recipe, folder: Path, plan: Plan, device: str
) -> tuple[list[Any | Failed], list[str]]:
    """Do one job, or several cells of a pair side by side; returns their values, and what a person should be warned of.

    Raises ValueError for whatever is wrong with the recipe, and what else goes wrong with all of them; a cell's
    traceback lies in its folder then.
    """
    heard = io.StringIO()
    talk = Talk() if plan.aloud else Talk(console=Console(file=heard, width=1000))
    try:
        values = _done(jobs, recipe, folder, plan, device, talk)
    except Interrupted:
        raise
    except Exception as error:
        for job in jobs:
            _failed(folder, job, error)
        raise
    return values, [line for line in heard.getvalue().splitlines() if line.startswith("warning:")]


def _done(jobs: Sequence[Job], recipe: Recipe, folder: Path, plan: Plan, device: str, talk: Talk) -> list[Any | Failed]:
    comparison = _comparison(recipe, folder, plan, device)
    comparison.options.talk = talk
    job = jobs[0]
    if job.kind == "precision":
        methods, seed = comparison.methods, plan.seed
        found, why = runs.settle_precision(
            plan.out, plan.precision, lambda: comparison.setting.measure(methods, seed, compiling=True)
        )
        return [{"choice": found.name, "why": why}]
    choice = json.loads((plan.out / runs.PRECISION).read_text())
    comparison.precision = Precision.named(choice["choice"])
    bars = talk.bars(1) if plan.aloud else _no_bars()
    with bars as comparison.begin:
        if job.kind == "teacher":
            _claim(comparison, plan, choice)
        if comparison.teacher is None:
            comparison.learn_teacher()
        if job.kind == "teacher":
            return [comparison.card]
        if job.kind == "cell":
            cells = comparison.cells([(parse(job.method), job.seed) for job in jobs])
            return [_said(folder, job, cell) for job, cell in zip(jobs, cells, strict=True)]
    return [comparison.finish(finished(folder, comparison.methods), choice)]


def _said(folder: Path, job: Job, cell: Cell | Exception) -> Any | Failed:
    if isinstance(cell, Exception):
        return _failed(folder, job, cell)
    (_place(folder, job) / ERROR).unlink(missing_ok=True)
    return asdict(cell)


def _failed(folder: Path, job: Job, error: Exception) -> Failed:
    if job.kind == "cell":
        text = "".join(traceback.format_exception(error))
        checkpoint.write_beside(_place(folder, job) / ERROR, lambda path: path.write_text(text))
    return Failed(str(error) or type(error).__name__)


def _place(folder: Path, job: Job) -> Path:
    return folder / parse(job.method).name / f"seed{job.seed}"


@contextmanager
def _no_bars() -> Iterator[Callable]:
    yield lambda name, steps: lambda done: None


@lru_cache(maxsize=1)  # the next job is most often of the same pair: its data and its teacher are there already
def _comparison(recipe: Recipe, folder: Path, plan: Plan, device: str) -> Comparison:
    options = Options(
        out=folder,
        device=torch.device(device),
        talk=Talk(quiet=True),
        seed=plan.seed,
        resume=True,
        source=plan.source,
        teachers=plan.teachers,
        stacking=False,  # a grid that goes on, with other workers or after a failure, may group its cells otherwise
    )
    recipe, methods = checked(recipe, options)
    return Comparison(opened(recipe, options), options, methods, Precision(), lambda name, steps: lambda done: None)


def _claim(comparison: Comparison, plan: Plan, choice: dict[str, Any]) -> None:
    """The pair's folder says what it holds. Raises ValueError where it holds what another recipe or other data gave."""
    folder = comparison.options.out
    values = runs.describe(comparison.setting.recipe, plan.seed, plan.source)
    values["data"] = comparison.setting.digests
    runs.check(folder, values, resume=True, grows=True)
    checkpoint.write_json(folder / runs.RECIPE, values)
    checkpoint.write_json(folder / runs.PRECISION, choice)


def finished(folder: Path, methods: Sequence[Method]) -> list[Cell]:
    """The cells of a pair's folder that are done."""
    paths = [path for method in methods for path in sorted((folder / method.name).glob(f"seed*/{RESULT}"))]
    return [Cell(**json.loads(path.read_text())["cell"]) for path in paths]


def register(recipe: Recipe, weights: Path, plan: Plan, device: str, talk: Talk) -> dict[str, Any]:
    """Put weights from elsewhere where the recipe's teacher would lie once trained; returns what it is worth and where.

    Raises ValueError for weights that do not fit, a recipe whose teacher is not trained, and a teacher that is there.
    """
    if plan.teachers is None or recipe.teacher.taught:
        raise ValueError(
            f"the recipe's teacher {recipe.teacher.name!r} comes with weights: there is nothing to register"
        )
    options = Options(plan.teachers, torch.device(device), talk, plan.seed)
    recipe, _ = checked(recipe, options)
    setting = opened(recipe, options)
    place = plan.teachers / registry.key(setting, plan.seed)
    with registry.locked(place):
        if registry.finished(place):
            raise ValueError(f"{place} holds this recipe's teacher already; delete the folder to put another there")
        module = setting.network(recipe.teacher, "teacher", plan.seed)
        load_weights(module, weights)
        classes = len(setting.train.classes)
        found = examine(
            setting.teacher(module), Classify(), setting.examples(recipe.fit, plan.seed).held, classes, talk
        )
        digest = hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()
        save_student(place, module, setting.card(module, recipe.teacher, None, found.top1))
        result = {"top1": found.top1, "seconds": 0.0, "key": place.name, "registered": f"{weights.name} {digest}"}
        checkpoint.write_json(place / RESULT, result)
    return {"folder": str(place), **result}
