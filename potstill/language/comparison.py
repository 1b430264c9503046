"""The cells of a comparison of networks of language: as of images, with scores in place of accuracies.

A network lies in its cell's folder `model/` as transformers writes it; one that writes, beside `samples.json`, what it
answers to the first validation prompts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from potstill import checkpoint, registry, runs
from potstill.assistants import teach
from potstill.comparison import Comparison
from potstill.evaluation.scores import summarise_scores
from potstill.evaluation.summary import Cell
from potstill.language import folder as folders
from potstill.language.lora import merged
from potstill.ranks import rank, wait
from potstill.registry import MODEL, RESULT
from potstill.report.page import write_report
from potstill.tasks.language import TextEvaluation
from potstill.together import Trainee

SAMPLES = "samples.json"
SHOWN = 20
"""Answers of a network that are kept for the report."""


class TextComparison(Comparison):
    """One run of a `LanguageRecipe` or a `LabelledRecipe`, while it runs."""

    setting: Any  # a TextSetting or a LabelledSetting

    def learn_teacher(self) -> None:
        """Train the teacher, or load it, and look at what it is worth."""
        spec, folder, seed = self.setting.recipe.teacher, self.options.out / "teacher", self.options.seed
        cached: Any = self.setting.cached
        if cached is not None and cached.about.served is not None:  # nobody but the cache knows what it says
            self.teacher, self.card = cached, {"model": cached.about.served, "cache": str(spec.cache), "seconds": 0.0}
            return
        # Of two tokenizers, the teacher reads the texts in tokens of its own.
        own = getattr(self.setting, "other", None) or self.setting
        module = own.network(spec, "teacher", seed)
        self.card = {"model": spec.name, "parameters": runs.parameters(module), "seconds": 0.0}
        if self.setting.taught(spec):
            self.card["checkpoint"] = spec.name
        else:
            alone = Trainee(spec, self.setting.alone, self.setting.recipe.training_of(), seed, folder)
            alone.module = module
            teach(replace(self, setting=own), alone, registry.key(own, seed), "teacher")
            module = merged(module)  # it was saved with its adapters added to the weights
            module.load_state_dict(folders.load_student(folder / MODEL).model.state_dict())
            kept = json.loads((folder / RESULT).read_text())
            self.card |= {name: kept[name] for name in ("seconds", "key") if name in kept}
        wait()
        self.teacher = live = own.teacher(module, self.precision)
        examples = own.examples(self.setting.recipe.fit, seed)
        found: TextEvaluation = examples.task.evaluate(live, examples.held())
        if not found.finite:
            raise ValueError("the teacher answers with NaN or infinity on the validation texts; check its weights")
        self.options.talk.say(f"teacher: {found.says}")
        self.card["scores"] = found.scores
        if not (folder / SAMPLES).exists():
            self._show(folder, own)
        if cached is not None:
            self.teacher, self.card["cache"] = cached, str(spec.cache)

    def kept(self, trainee: Trainee) -> tuple[dict[str, Any], Any]:
        """A trained network is evaluated and saved as a folder of transformers."""
        engine = trainee.engine
        examples = self.setting.examples(trainee.fit, trainee.seed)
        found: TextEvaluation = examples.task.evaluate(engine.evaluated, examples.held())
        done = engine.result
        result = {"scores": found.scores, "seconds": done.seconds, "waited": done.waited}
        if rank() == 0:
            about = {"method": trainee.method.name, "expansion": trainee.method.expansion, "seed": trainee.seed}
            self.setting.save(trainee.folder / MODEL, engine.student, about)
        self._show(trainee.folder)
        return result, found

    def _show(self, folder: Path, setting: Any = None) -> None:
        """Write down what the network that was judged last has answered, where networks write."""
        if rank() == 0 and (items := (setting or self.setting).samples(SHOWN)):
            checkpoint.write_json(folder / SAMPLES, {"items": items})

    def _finish(self, trainee: Trainee, peak: float | None) -> None:
        method, seed, folder = trainee.method, trainee.seed, trainee.folder
        result, found = self.kept(trainee)
        cell = Cell(
            method=method.name,
            seed=seed,
            top1=None,
            best_top1=None,
            agreement=None,
            parameters=runs.parameters(trainee.module),
            seconds=result["seconds"],
            expansion=method.expansion,
            folder=str(folder.relative_to(self.options.out)),
            teacher_free=not method.needs_teacher,
            peak_mib=peak,
            scores=found.scores,
        )
        if rank() == 0:
            checkpoint.write_json(folder / RESULT, {**result, "cell": asdict(cell)})
        wait()
        self.options.talk.say(f"{method.name} seed {seed}: {found.says} ({cell.seconds:.0f} s)")

    def finish(self, cells: list[Cell], precision: dict[str, Any]) -> dict[str, Any]:
        """The summary, the report, and the headline student in the run's own folder."""
        out, names = self.options.out, [method.name for method in self.methods]
        cells = sorted(cells, key=lambda cell: (names.index(cell.method), cell.seed))
        summary = summarise_scores(
            dataset=self.setting.name,
            teacher=self.card,
            cells=cells,
            measures=self.setting.measures,
            run=str(out),
            notes=self.setting.notes,
            title=self.setting.recipe.title,
            precision=precision,
        )
        if rank() == 0:
            headline = out / next(cell.folder for cell in cells if cell.method == cells[-1].method)
            _copied(headline / MODEL, out / MODEL)
            checkpoint.write_json(out / runs.SUMMARY, summary)
            write_report(out)
        wait()
        return summary


def _copied(source: Path, target: Path) -> None:
    """A folder beside, then renamed."""
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
