"""The cells of a comparison: its teacher, and one student for each method and seed.

Layout of the folder: `recipe.json`, `precision.json`, `summary.json`, `report.html`, the headline student (last
method, first seed), `teacher/`, and a folder per cell, `<method>/seed<k>/`. A cell that has its `result.json` is
finished and never run again.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from potstill import checkpoint, registry, runs
from potstill.assistants import learn, teach
from potstill.budget import spend
from potstill.cell import assemble, final_evaluation, prepared
from potstill.console import Talk
from potstill.data import Preprocess
from potstill.engine import Engine
from potstill.evaluation.summary import Cell, summarise
from potstill.examples import Examples
from potstill.loop import Step, each, in_turn
from potstill.methods import LONE_STUDENT, Method, parse
from potstill.models import load_weights
from potstill.outputs import collect, fidelities, remarks
from potstill.precision import Precision
from potstill.published import add_published
from potstill.ranks import rank, wait
from potstill.recipe import Fit
from potstill.registry import RESULT
from potstill.report.mistakes import mistakes
from potstill.report.page import write_report
from potstill.setting import Setting
from potstill.sources import Heard
from potstill.stacked import Stacked, settle, stacks
from potstill.student import CARD, WEIGHTS, adaptation, save_student
from potstill.tasks.classify import Classify, Evaluation
from potstill.teachers import examine
from potstill.together import Trainee, side_by_side
from potstill.types import Progress, Source
from potstill.unlabelled import untaught_answers
from potstill.usage import Peak

STUDENTS = "students.json"
"""Whether students that train side by side are stacked, and what was measured."""
MEASURED = 4
"""Students that are measured for that."""
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
    stacking: bool = True
    """Students that train side by side may be stacked where it pays, if the precision is left to measuring as well:
    their last bits then depend on their group."""


@dataclass
class Comparison:
    """One run of a recipe, while it runs."""

    setting: Setting
    options: Options
    methods: list[Method]
    precision: Precision
    begin: Begin
    teacher: Source | None = None
    assistants: dict[str, Source] = field(default_factory=dict)
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
            alone = Trainee(spec, parse(LONE_STUDENT), self.setting.recipe.training_of(), seed, folder)
            alone.module = module
            teach(self, alone, registry.key(self.setting, seed), "teacher")
            load_weights(module, folder / WEIGHTS)
            kept = json.loads((folder / RESULT).read_text())
            self.card |= {name: kept[name] for name in ("seconds", "key", "registered") if name in kept}
        wait()
        self.teacher = live = self.setting.teacher(module, self.precision)
        examples = self.setting.examples(self.setting.recipe.fit, seed)
        own = {} if spec.mean is None else {"the data's own": Preprocess.of(self.setting.train)}
        taught = "checkpoint" not in self.card
        found = examine(live, Classify(), examples.held, self.setting.classes, self.options.talk, own, taught)
        self.card |= {} if found.top1 is None else {"top1": found.top1}
        self.answers = found.predictions
        self.card["tail_top1"] = self.setting.tail_top1(found.predictions)
        if self.setting.cached is not None:
            self.teacher, self.card["cache"] = self.setting.cached, str(spec.cache)
        self.teacher = self.setting.limited(self.teacher)
        self.card |= spend(self.teacher, folder, self.options.device, self.begin)
        if self.setting.recipe.assistants:
            self.card["assistants"] = [learn(self, one) for one in self.setting.recipe.assistants]

    def cell(self, method: Method, seed: int) -> Cell:
        """Train one student, or read what it came to."""
        (found,) = self.cells([(method, seed)])
        if isinstance(found, Exception):
            raise found
        return found

    def cells(self, wanted: Sequence[tuple[Method, int]]) -> list[Cell | Exception]:
        """Train students side by side, or read what they came to; where one failed stands why.

        Raises Interrupted when all are stopped, and ValueError for several whose batches are not the same.
        """
        if len(wanted) > 1 and not self.setting.side_by_side:
            raise ValueError("students that train side by side see the same batches; set data.order to shared")
        spec, fit = self.setting.recipe.student, self.setting.recipe.fit
        trainees = [Trainee(spec, method, fit, seed, self.folder(method, seed)) for method, seed in wanted]
        new = [trainee for trainee in trainees if not trainee.done]
        alone, peak = len(new) == 1, Peak(self.options.device)
        heard = None if alone or self.teacher is None else Heard(self.teacher)
        # One loader for all: the examples of a stage are made once.
        examples = cache(lambda fit: self.setting.examples(fit, self.setting.order(new[0].seed)))

        def prepare(trainee: Trainee) -> None:
            trainee.module = self.setting.student(trainee.method, trainee.seed, self.teacher)
            label = f"{trainee.method.name} seed {trainee.seed}" if alone else f"{len(new)} students side by side"
            trainee.engine = self.engine(trainee, examples, label, heard)

        failed = each(new, prepare)
        ready = {trainee.engine: trainee for trainee in new if trainee not in failed}
        ended = side_by_side(list(ready), heard, self.options.resume, self._step(ready, examples, heard))
        failed |= {ready[engine]: error for engine, error in ended.items()}
        trained = [trainee for trainee in ready.values() if trainee not in failed]
        failed |= each(trained, lambda trainee: self._finish(trainee, peak.mib() if alone else None))
        return [failed.get(trainee) or trainee.cell() for trainee in trainees]

    def _step(self, ready: dict[Engine, Trainee], examples: Callable[[Fit], Examples], heard: Source | None) -> Step:
        """In turn, or stacked where arithmetic is left to measuring and that was measured to pay."""
        record, device = self.options.out / STUDENTS, self.options.device
        measured = self.options.stacking and (self.options.precision == "auto" or record.exists())
        alike = stacks(list(ready)) if measured else []
        if not alike:
            return in_turn
        some, shared = [ready[engine] for engine in alike[0][:MEASURED]], examples(self.setting.recipe.fit)

        def build() -> list[Engine]:
            return [
                assemble(
                    copy.deepcopy(trainee.module),
                    heard if trainee.method.needs_teacher else None,
                    trainee.method,
                    shared,
                    trainee.fit,
                    **self._others(trainee.seed),
                    preprocess=self.setting.preprocess(trainee.spec, trainee.method),
                    precision=self.precision,
                )
                for trainee in some
            ]

        batch = next(iter(shared.loader.epoch(0)))
        choice = settle(record, build, batch, device)
        self.options.talk.say(f"students: {choice['why']}")
        return Stacked(list(ready)) if choice["stacked"] else in_turn

    def folder(self, method: Method, seed: int) -> Path:
        """Of a cell."""
        return self.options.out / method.name / f"seed{seed}"

    def _finish(self, trainee: Trainee, peak: float | None) -> None:
        """Write down what a trained student came to."""
        method, seed, folder = trainee.method, trainee.seed, trainee.folder
        result, found = self.kept(trainee)
        cell = Cell(
            method=method.name,
            seed=seed,
            top1=result["top1"],
            best_top1=result["best_top1"],
            agreement=found.agreement,
            parameters=runs.parameters(trainee.module),
            seconds=result["seconds"],
            expansion=method.expansion,
            folder=str(folder.relative_to(self.options.out)),
            teacher_free=not method.needs_teacher,
            peak_mib=peak,
            classifies=method.classifies,
            tail_top1=self.setting.tail_top1(found.predictions),
        )
        if rank() == 0:
            if seed == self.options.seed and self.answers is not None and method.classifies and found.top1 is not None:
                items = mistakes(self.setting.valid, found.predictions, self.answers)
                checkpoint.write_json(folder / "examples.json", {"items": items})
            checkpoint.write_json(folder / RESULT, {**result, "cell": asdict(cell)})
        wait()
        reached = found.says if method.classifies else "learnt features, no classifier"
        self.options.talk.say(f"{method.name} seed {seed}: {reached} ({cell.seconds:.0f} s)")

    def engine(
        self,
        trainee: Trainee,
        examples: Callable[[Fit], Examples],
        label: str,
        heard: Source | None = None,
        guide: Source | None = None,
    ) -> Engine:
        """Ready for the main stage of its method. The teacher teaches, unless there is another `guide`."""
        method = trainee.method
        return prepared(
            trainee.module,
            (guide or self.teacher) if method.needs_teacher else None,
            method,
            examples,
            trainee.fit,
            begin=self.begin,
            label=label,
            resume=self.options.resume,
            heard=heard if method.needs_teacher else None,
            seed=trainee.seed,
            preprocess=self.setting.preprocess(trainee.spec, method),
            precision=self.precision,
            reference=self.answers,
            folder=trainee.folder,
            **self._others(trainee.seed),
        )

    def _others(self, seed: int) -> dict[str, Any]:
        return {"assistants": self.assistants, "fresh": self.setting.fresh(seed)}

    def kept(self, trainee: Trainee) -> tuple[dict[str, Any], Evaluation]:
        """A trained network is evaluated and saved."""
        engine, method = trainee.engine, trainee.method
        done = engine.result
        found = final_evaluation(engine, self.setting.examples(trainee.fit, trainee.seed), self.answers)
        best = max((row["top1"] for row in done.history if "top1" in row), default=None)
        result = {"top1": found.top1, "best_top1": best, "seconds": done.seconds, "waited": done.waited}
        if rank() == 0:
            card = self.setting.card(trainee.module, trainee.spec, method, found)
            card |= {"expansion": method.expansion, "seed": trainee.seed, **adaptation(engine.student)}
            save_student(trainee.folder, engine.student, card)
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
            notes=[*self.setting.notes, *untaught_answers(self.methods)],
            **({} if self.setting.valid.labelled else {"measure": "agreement"}),
            title=self.setting.recipe.title,
            precision=precision,
            order=self.setting.recipe.data.order,
        )
        if rank() == 0:
            collect(out, self.setting, self.teacher, cells, self.options.seed, self.precision, self.options.talk)
            summary["fidelity"] = fidelities(out, cells)
            summary["remarks"] = remarks(summary)
            add_published(summary, self.setting.recipe)
            headline = out / next(cell.folder for cell in cells if cell.method == cells[-1].method)
            for name in (WEIGHTS, CARD):
                checkpoint.write_beside(out / name, lambda path, name=name: shutil.copyfile(headline / name, path))
            checkpoint.write_json(out / runs.SUMMARY, summary)
            write_report(out)
        wait()
        return summary
