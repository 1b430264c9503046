"""`potstill.distill_text(teacher, student, data, tokenizer=…)`: two language models of transformers, from Python."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill import checkpoint, runs
from potstill.cell import choose_precision, train_stages
from potstill.console import Talk
from potstill.evaluation.scores import summarise_scores
from potstill.evaluation.summary import Cell
from potstill.idle import unused
from potstill.language.folder import save_folder
from potstill.language.given import Given, given
from potstill.language.recipe import FIT
from potstill.methods import Method, parse
from potstill.ranks import rank, start
from potstill.recipe import Fit
from potstill.registry import MODEL
from potstill.report.page import write_report
from potstill.tasks.language import TextEvaluation
from potstill.teachers import check_modules

RATE = 1e-5
"""Learning rate for pretrained students."""


def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    *,
    tokenizer: Any,
    teacher_tokenizer: Any = None,
    method: str = "skd",
    epochs: int = 3,
    batch_size: int = 32,
    fit: Fit | None = None,
    valid: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    quiet: bool = False,
) -> nn.Module:
    """Train `student` in place with what `teacher` knows, and return it in evaluation mode.

    Both are causal language models of transformers (`AutoModelForCausalLM`); a student with adapters of peft trains
    these alone.

    Args:
        data: a list of `{"prompt": …, "response": …}` or `{"messages": […]}`, a `datasets.Dataset` with such columns,
            or the path of a JSON lines or Parquet file. Without responses for methods in which a network writes them.
        tokenizer: the student's; the teacher has the same, or a `teacher_tokenizer` of its own, for `gold` and `uld`.
        method: e.g. `"skd"`, `"forward_kl"`, `"gkd"`, `"on_policy+reverse_kl"` (`potstill list methods`).
        epochs, batch_size: as usual, with AdamW at a learning rate of 1e-5, for pretrained students.
        fit: everything about training, if these two are not enough.
        valid: validation data in any of these forms. Without it nothing is evaluated.
        out: a run folder (metrics, checkpoint, report); the student lies in `out/model` as transformers writes it.
        resume: go on with the run in `out`.

    Raises:
        ValueError: anything that would fail or mislead later: texts that are empty or too long, vocabularies that do
            not fit, a teacher that answers with NaN, an `out` that holds another run.
        potstill.Interrupted: Ctrl-C; the checkpoint is saved when there is an `out`.

    >>> student = potstill.distill_text(teacher, student, "my.jsonl", tokenizer=tokenizer)  # doctest: +SKIP
    """
    talk, plan = Talk(quiet=quiet), parse(method)
    check_modules(teacher, student, {})
    place = start(str(device)) if device is not None else next(student.parameters()).device
    asked = fit or replace(FIT, epochs=epochs, batch_size=batch_size, lr=RATE)
    for text in unused(asked, "fit"):
        talk.warn(text)
    setting = given(teacher, student, data, valid, plan, asked, tokenizer, teacher_tokenizer, place)
    crossing = setting.crossing
    for note in setting.notes:
        talk.say(note)
    student.to(place)
    teacher.to(place)
    examples = setting.lessons_of(asked, seed, valid is not None)
    folder = None if out is None else Path(out)
    claimed = nullcontext()
    if folder is not None:
        names = {"teacher": type(teacher).__name__, "student": type(student).__name__, "data": setting.digests}
        values = {"recipe": {**names, "method": plan.expansion, "fit": asdict(asked), "seed": seed}}
        claimed = runs.claim(folder, {**values, "environment": runs.environment()}, resume)
    with claimed:
        usual = plan if plan.scheme is None or not setting.train.answered else parse("forward_kl")
        arithmetic, why = runs.settle_precision(
            folder,
            precision if crossing is None or precision != "auto" else "float32",
            lambda: choose_precision(student, teacher, usual, examples, asked, None, None, 3),
        )
        talk.say(f"method {plan.name}: {plan.plan}; precision: {why}")
        with closing(setting.guide(teacher, examples, arithmetic)) as heard, talk.bars(len(plan.stages)) as begin:
            setting.check_plan(plan, student, heard, examples, asked)
            engine, done = train_stages(
                student,
                heard if plan.needs_teacher else None,
                plan,
                lambda _: examples,
                asked,
                begin=begin,
                label=plan.name,
                resume=resume,
                seed=seed,
                precision=arithmetic,
                folder=folder,
            )
            found: TextEvaluation | None = None
            if valid is not None:
                found = examples.task.evaluate(engine.evaluated, examples.held())
                talk.say(f"student: {found.says}")
    if engine.student is not student:  # the moving average
        student.load_state_dict(engine.student.state_dict())
    if folder is not None and rank() == 0:
        card = {"method": plan.name, "expansion": plan.expansion, "seed": seed}
        save_folder(folder / MODEL, student, tokenizer, card)
        if found is not None:
            _report(folder, setting, plan, teacher, student, found, done.seconds, seed)
    return student.eval()


def _report(
    folder: Path,
    setting: Given,
    plan: Method,
    teacher: nn.Module,
    student: nn.Module,
    found: TextEvaluation,
    seconds: float,
    seed: int,
) -> None:
    cell = Cell(
        method=plan.name,
        seed=seed,
        top1=None,
        best_top1=None,
        agreement=None,
        parameters=runs.parameters(student),
        seconds=seconds,
        expansion=plan.expansion,
        folder=".",
        teacher_free=not plan.needs_teacher,
        scores=found.scores,
    )
    card = {"model": type(teacher).__name__, "parameters": runs.parameters(teacher), "seconds": 0.0}
    summary = summarise_scores(
        dataset="your data",
        teacher=card,
        cells=[cell],
        measures=setting.measures,
        run=str(folder),
        notes=setting.notes,
    )
    checkpoint.write_json(folder / runs.SUMMARY, summary)
    write_report(folder)
