"""Run a recipe: a teacher, then every method from the same seeds, one table.

Layout of the run folder: `recipe.json`, `precision.json`, `summary.json`, `report.html`, the headline student (last
method, first seed), `teacher/`, and a folder per cell, `<method>/seed<k>/`. A cell that has its `result.json` is
finished and never run again.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from potstill import checkpoint, runs
from potstill.cell import final_evaluation, train_stages
from potstill.console import Talk
from potstill.data import Preprocess, Split, load
from potstill.evaluation.summary import Cell, summarise
from potstill.methods import Method, parse
from potstill.models import check_name, described, load_weights
from potstill.precision import Precision
from potstill.ranks import rank, wait
from potstill.recipe import Fit, Network, Recipe
from potstill.report.page import write_report
from potstill.setting import Setting, with_views, without_effect
from potstill.student import CARD, WEIGHTS, adaptation, save_student
from potstill.tasks.classify import Classify, Evaluation
from potstill.teachers import examine
from potstill.types import Progress, Source

RESULT = "result.json"
SHOWN = 24
"""Images in the report where the teacher is right and the student wrong, per method."""

Begin = Callable[[str, int], Callable[[Progress], None]]


@dataclass
class Options:
    """What every run can be told besides its recipe."""

    out: Path
    device: torch.device
    talk: Talk
    seed: int = 0
    precision: str = "auto"
    resume: bool = False
    source: str | None = None


@dataclass
class Comparison:
    """One run of a recipe, while it runs."""

    setting: Setting
    options: Options
    methods: list[Method]
    precision: Precision
    begin: Begin
    teacher: Source | None = None
    answers: Tensor | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def learn_teacher(self) -> None:
        """Train the teacher, or load it, and look at what it is worth."""
        spec, folder, seed = self.setting.recipe.teacher, self.options.out / "teacher", self.options.seed
        module = self.setting.network(spec, "teacher", seed)
        self.card = {"model": spec.name, "parameters": runs.parameters(module), "seconds": 0.0}
        if spec.taught:
            self.card["checkpoint"] = str(spec.checkpoint or spec.name)
        elif (folder / RESULT).exists():
            load_weights(module, folder / WEIGHTS)
            self.card["seconds"] = json.loads((folder / RESULT).read_text())["seconds"]
        else:
            fit = self.setting.recipe.teacher_fit or self.setting.recipe.fit
            result, _ = self.train(module, spec, parse("student"), fit, seed, folder, "teacher")
            self.card["seconds"] = result["seconds"]
            if rank() == 0:
                checkpoint.write_json(folder / RESULT, result)
        wait()
        self.teacher = live = self.setting.teacher(module, self.precision)
        examples = self.setting.examples(self.setting.recipe.fit, seed)
        classes = len(self.setting.train.classes)
        own = {} if spec.mean is None else {"the data's own": Preprocess.of(self.setting.train)}
        taught = "checkpoint" not in self.card
        found = examine(live, Classify(), examples.held, classes, self.options.talk, own, taught)
        self.card["top1"], self.answers = found.top1, found.predictions
        if self.setting.cached is not None:
            self.teacher, self.card["cache"] = self.setting.cached, str(spec.cache)

    def cell(self, method: Method, seed: int) -> Cell:
        """Train one student, or read what it came to."""
        folder = self.options.out / method.name / f"seed{seed}"
        if (folder / RESULT).exists():
            return Cell(**json.loads((folder / RESULT).read_text())["cell"])
        spec, fit = self.setting.recipe.student, self.setting.recipe.fit
        module = self.setting.student(method, seed, self.teacher)
        result, found = self.train(module, spec, method, fit, seed, folder, f"{method.name} seed {seed}")
        cell = Cell(
            method=method.name,
            seed=seed,
            top1=result["top1"],
            best_top1=result["best_top1"],
            agreement=found.agreement,
            parameters=runs.parameters(module),
            seconds=result["seconds"],
            expansion=method.expansion,
            folder=str(folder.relative_to(self.options.out)),
            teacher_free=not method.needs_teacher,
        )
        if rank() == 0:
            if seed == self.options.seed and self.answers is not None:
                items = mistakes(self.setting.valid, found.predictions, self.answers)
                checkpoint.write_json(folder / "examples.json", {"items": items})
            checkpoint.write_json(folder / RESULT, {**result, "cell": asdict(cell)})
        wait()
        self.options.talk.say(f"{method.name} seed {seed}: {cell.top1:.2f} % ({cell.seconds:.0f} s)")
        return cell

    def train(
        self, module: nn.Module, spec: Network, method: Method, fit: Fit, seed: int, folder: Path, label: str
    ) -> tuple[dict[str, Any], Evaluation]:
        """Train one network to the end and save it."""
        preprocess = self.setting.preprocess(spec, method)
        engine, done = train_stages(
            module,
            self.teacher if method.needs_teacher else None,
            method,
            lambda fit: self.setting.examples(fit, seed),
            fit,
            begin=self.begin,
            label=label,
            resume=self.options.resume,
            seed=seed,
            preprocess=preprocess,
            precision=self.precision,
            reference=self.answers,
            folder=folder,
        )
        found = final_evaluation(engine, self.setting.examples(fit, seed), self.answers)
        best = max(row["top1"] for row in done.history if "top1" in row)
        result = {"top1": found.top1, "best_top1": best, "seconds": done.seconds, "waited": done.waited}
        if rank() == 0:
            train = self.setting.train
            card = {
                "model": described(module, self.setting.architecture(spec)),
                "classes": list(train.classes),
                "channels": train.channels,
                "size": list(train.size),
                "preprocess": preprocess.describe(),
                "data": train.name,
                "method": method.name,
                "expansion": method.expansion,
                "seed": seed,
                "top1": found.top1,
                **adaptation(engine.student),
            }
            save_student(folder, engine.student, card)
        return result, found

    def finish(self, cells: list[Cell], precision: dict[str, Any]) -> dict[str, Any]:
        """The summary, the report, and the headline student in the run's own folder."""
        out, names = self.options.out, [method.name for method in self.methods]
        summary = summarise(
            dataset=self.setting.train.name,
            teacher=self.card,
            cells=sorted(cells, key=lambda cell: (names.index(cell.method), cell.seed)),
            run=str(out),
            notes=_notes(self.setting),
            title=self.setting.recipe.title,
            precision=precision,
        )
        if rank() == 0:
            headline = out / names[-1] / f"seed{self.options.seed}"
            for name in (WEIGHTS, CARD):
                checkpoint.write_beside(out / name, lambda path, name=name: shutil.copyfile(headline / name, path))
            checkpoint.write_json(out / runs.SUMMARY, summary)
            write_report(out)
        wait()
        return summary


def run(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Train everything of a recipe that is not trained yet; returns the summary that it also writes.

    Raises ValueError for whatever is wrong with the recipe, the data, the networks or the output folder. Before the
    first step that leaves nothing behind.
    """
    talk = options.talk
    methods = [parse(text) for text in recipe.methods]
    _check_names(methods, recipe)
    recipe = with_views(recipe)
    for text in without_effect(recipe):
        talk.warn(text)
    if options.precision != "auto":
        Precision.named(options.precision)
    values = runs.describe(recipe, options.seed, options.source)
    if rank() == 0:
        runs.check(options.out, values, options.resume)
    found = load(recipe.data, quiet=talk.quiet)
    values["data"] = {role: images.digest for role, images in zip(("train", "valid"), found, strict=True)}
    train, valid = (images.to(options.device) for images in found)
    setting = Setting(recipe, options.device, train, valid).with_cache(options.seed)
    counts = f"{len(train):,} training and {len(valid):,} validation images, {len(train.classes)} classes"
    talk.say(f"data: {train.name}, {counts}")
    for note in _notes(setting):
        talk.say(f"  {note}")
    if setting.cached is not None:
        views = f"{setting.cached.views} view(s) of each training image"
        talk.say(f"teacher: students learn from the cache {recipe.teacher.cache}, {views}")
    setting.check(methods, options.seed)
    with runs.claim(options.out, values, options.resume) if rank() == 0 else nullcontext():
        wait()
        return _compare(setting, options, methods)


def _compare(setting: Setting, options: Options, methods: list[Method]) -> dict[str, Any]:
    talk, recipe = options.talk, setting.recipe
    precision, why = runs.settle_precision(
        options.out, options.precision, lambda: setting.measure(methods, options.seed)
    )
    talk.say(f"precision: {why}")
    for method in methods:
        talk.say(f"method {method.name}: {method.plan}")
    cells = [(method, seed) for seed in range(options.seed, options.seed + recipe.seeds) for method in methods]
    with talk.bars(1 + sum(len(method.stages) for method, _ in cells)) as begin:
        comparison = Comparison(setting, options, methods, precision, begin)
        comparison.learn_teacher()
        done = [comparison.cell(method, seed) for method, seed in cells]
    talk.say(runs.waiting(options.out))
    return comparison.finish(done, {"choice": precision.name, "why": why})


def _notes(setting: Setting) -> list[str]:
    return list(dict.fromkeys(setting.train.notes + setting.valid.notes))


def _check_names(methods: list[Method], recipe: Recipe) -> None:
    """What can be told wrong before any data is read."""
    for spec in (recipe.teacher, recipe.student):
        check_name(spec.name)
    if recipe.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {recipe.seeds}")
    names = [method.name for method in methods]
    if not names:
        raise ValueError("no method to run; write e.g. --methods student kd icd")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"method {name!r} is written twice")


def mistakes(valid: Split, student: Tensor, teacher: Tensor) -> list[dict[str, Any]]:
    """The first validation images where the teacher is right and the student wrong, as PNG."""
    wrong = (teacher == valid.labels) & (student != valid.labels)
    items = []
    for index in wrong.nonzero().flatten()[:SHOWN].tolist():
        pixels = valid.picture(index)
        image = Image.fromarray((pixels[0] if valid.channels == 1 else pixels.permute(1, 2, 0)).numpy())
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        names = {"label": valid.labels[index], "teacher": teacher[index], "student": student[index]}
        named = {role: valid.classes[int(number)] for role, number in names.items()}
        items.append({"png": base64.b64encode(buffer.getvalue()).decode(), **named, "index": index})
    return items
