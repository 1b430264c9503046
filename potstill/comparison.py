"""The cells of a comparison: its teacher, and one student for each method and seed.

Layout of the folder: `recipe.json`, `precision.json`, `summary.json`, `report.html`, the headline student (last
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

from potstill import checkpoint, registry, runs
from potstill.cell import final_evaluation, train_stages
from potstill.console import Talk
from potstill.data import Preprocess, Split
from potstill.evaluation.summary import Cell, summarise
from potstill.methods import Method, parse
from potstill.models import load_weights
from potstill.outputs import collect, fidelities, remarks
from potstill.precision import Precision
from potstill.published import DATA, comparable, published
from potstill.ranks import rank, wait
from potstill.recipe import Fit, Network
from potstill.registry import RESULT
from potstill.report.page import write_report
from potstill.setting import Setting
from potstill.student import CARD, WEIGHTS, adaptation, save_student
from potstill.tasks.classify import Classify, Evaluation
from potstill.teachers import examine
from potstill.types import Progress, Source
from potstill.usage import Peak

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
    teachers: Path | None = None
    """Where trained teachers are shared between runs; without it a run trains its own."""


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
        else:
            if not registry.finished(folder):
                self._train_teacher(module, folder)
                wait()
            load_weights(module, folder / WEIGHTS)
            kept = json.loads((folder / RESULT).read_text())
            self.card |= {name: kept[name] for name in ("seconds", "key", "registered") if name in kept}
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

    def _train_teacher(self, module: nn.Module, folder: Path) -> None:
        """Into `folder`; where teachers are shared, through theirs, in which it may lie already."""
        spec, seed = self.setting.recipe.teacher, self.options.seed
        fit = self.setting.recipe.teacher_fit or self.setting.recipe.fit
        shared = self.options.teachers and self.options.teachers / registry.key(self.setting, seed)
        place = shared or folder
        with registry.locked(place) if shared and rank() == 0 else nullcontext():
            if not registry.finished(place):
                result, _ = self.train(module, spec, parse("student"), fit, seed, place, "teacher")
                if rank() == 0:
                    checkpoint.write_json(place / RESULT, {**result, "key": place.name} if shared else result)
            if shared and rank() == 0:
                registry.copy(shared, folder)

    def cell(self, method: Method, seed: int) -> Cell:
        """Train one student, or read what it came to."""
        folder = self.options.out / method.name / f"seed{seed}"
        if (folder / RESULT).exists():
            return Cell(**json.loads((folder / RESULT).read_text())["cell"])
        spec, fit = self.setting.recipe.student, self.setting.recipe.fit
        peak = Peak(self.options.device)
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
            peak_mib=peak.mib(),
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
            card = self.setting.card(module, spec, method, found.top1)
            card |= {"expansion": method.expansion, "seed": seed, **adaptation(engine.student)}
            save_student(folder, engine.student, card)
        return result, found

    def finish(self, cells: list[Cell], precision: dict[str, Any]) -> dict[str, Any]:
        """The summary, the report, and the headline student in the run's own folder."""
        out, names = self.options.out, [method.name for method in self.methods]
        cells = sorted(cells, key=lambda cell: (names.index(cell.method), cell.seed))
        summary = summarise(
            dataset=self.setting.train.name,
            teacher=self.card,
            cells=cells,
            run=str(out),
            notes=self.setting.notes,
            title=self.setting.recipe.title,
            precision=precision,
        )
        if rank() == 0:
            collect(out, self.setting, self.teacher, cells, self.options.seed, self.precision, self.options.talk)
            summary["fidelity"] = fidelities(out, cells)
            summary["remarks"] = remarks(summary)
            self._add_published(summary)
            headline = out / next(cell.folder for cell in cells if cell.method == cells[-1].method)
            for name in (WEIGHTS, CARD):
                checkpoint.write_beside(out / name, lambda path, name=name: shutil.copyfile(headline / name, path))
            checkpoint.write_json(out / runs.SUMMARY, summary)
            write_report(out)
        wait()
        return summary

    def _add_published(self, summary: dict[str, Any]) -> None:
        """Published numbers, where the run is of the protocol that they belong to."""
        recipe = self.setting.recipe
        if not comparable(recipe):
            return
        names = DATA, recipe.teacher.name, recipe.student.name
        for row in (*summary["rows"], summary["teacher"]):
            found = published(*names, row.get("method", "teacher"))
            row["published"] = found and {"value": found.value, "source": found.source}


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
