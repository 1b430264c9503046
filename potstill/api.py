"""`potstill.distill(teacher, student, data)`: any two networks, any data, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill import checkpoint, runs
from potstill.adapting import adapted
from potstill.caching import Cache, check_methods, standing_in
from potstill.cell import choose_precision, final_evaluation, train_stages
from potstill.console import Talk
from potstill.data import Preprocess, Split
from potstill.data.foreign import Given, Ordered
from potstill.evaluation.summary import Cell, summarise
from potstill.examples import Examples, source
from potstill.forms import examples_of, findable, held
from potstill.idle import unused
from potstill.loop import Result
from potstill.methods import Method, parse
from potstill.precision import Choice, Precision, lay_out
from potstill.ranks import start
from potstill.recipe import Fit
from potstill.report.page import write_report
from potstill.sources import Network
from potstill.student import adaptation, save_student
from potstill.tasks.classify import Classify, Evaluation
from potstill.teachers import check_modules, classes_of, examine, frozen
from potstill.terms import Term
from potstill.types import Source
from potstill.unlabelled import check_terms, untaught_answers


def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    *,
    valid: Any = None,
    method: str | Sequence[Term] = "icd+kd",
    epochs: int = 30,
    batch_size: int = 64,
    fit: Fit | None = None,
    assistants: Mapping[str, nn.Module] | None = None,
    teacher_preprocess: Preprocess | None = None,
    student_preprocess: Preprocess | None = None,
    precision: str = "auto",
    device: str | torch.device | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    cache: str | Path | Cache | None = None,
    quiet: bool = False,
) -> nn.Module:
    """Train `student` in place with what `teacher` knows, and return it in evaluation mode.

    The two networks may be any modules that return logits `[B, K]`; nothing in them is edited. Where to look in them
    is found by one probe, or named by module path in `method` (a list of `Term`s). A method whose student is another
    network at inference too (`simkd`) returns that network, with `student` inside.

    Args:
        data: training data: `potstill.data.Images` (taken as they are, not augmented), a `potstill.data.Stream` (with
            its own augmentation), a pair of tensors `(inputs, labels)`, a map-style `Dataset` of `(input, label)`, or
            a loader that yields `(input, label)` batches. Without labels: a tensor of inputs, or a `Dataset` or loader
            of inputs alone, and a `method` that does without, e.g. `"ce:0+icd+kd"`.
        valid: validation data in any of these forms. Without it nothing is evaluated, and the teacher is looked at
            on training data. Without labels the result is how often the student gives the teacher's answer.
        method: e.g. `"icd+kd"`, `"kd"`, `"icd:1.0+kd:0.5"`, or terms, e.g.
            `[Term(CrossEntropy), Term(FitNet, "layer2", "layer3", weight=100)]`.
        epochs, batch_size: as usual; a loader of your own brings its batch size.
        fit: everything about training, if these two are not enough.
        assistants: further trained networks by name, from strong to weak, for methods that listen to several (`takd`,
            `ces_kd`, `dgkd`) and for terms that name them. They see their input as the teacher does.
        teacher_preprocess, student_preprocess: what each network does to its input. Left out: nothing for floating
            point inputs, pixels in [0, 1] for uint8 ones.
        precision: `auto` measures a few steps and takes what is fastest on this device.
        device: where to train; the student's own device when left out.
        out: a run folder (metrics, checkpoint, weights, report); without it nothing is written.
        resume: go on with the run in `out`.
        cache: a folder that keeps what the teacher says: it is asked once, and any number of students learn from there
            with the same bits. Written when it is not there, finished when it is not whole, and refused when it is of
            another teacher, other data or other views. `data` must be tensors, `Images` or a `Stream` (whose own
            augmentation is kept, one view for each epoch). `potstill.Cache(folder, top_k=…, dtype=…)` keeps less.

    Raises:
        ValueError: anything that would fail or mislead later: an unknown method or tap, labels out of range, a
            teacher that returns NaN or another number of classes, an `out` that holds another run, a `cache` of
            something else.
        potstill.Interrupted: Ctrl-C; the checkpoint is saved when there is an `out`.

    >>> student = potstill.distill(teacher, student, (x, y), valid=(x2, y2), method="icd+kd")  # doctest: +SKIP
    """
    talk = Talk(quiet=quiet)
    plan = _plan(method)
    others = check_modules(teacher, student, assistants or {})
    place = start(str(device)) if device is not None else _device_of(student)
    asked = fit or Fit(epochs=epochs, batch_size=batch_size)
    examples = examples_of(data, asked, place, seed)
    fit = replace(asked, batch_size=examples.info.batch_size)
    for text in unused(fit, "fit"):
        talk.warn(text)
    if (asked.epochs, asked.batch_size) != (epochs, batch_size) and (epochs, batch_size) != (30, 64):
        talk.warn("epochs and batch_size have no effect: fit says both")
    elif asked.batch_size not in (fit.batch_size, Fit.batch_size):
        talk.warn(f"batch_size={asked.batch_size} has no effect: the data comes in batches of {fit.batch_size}")
    if examples.probe.main.input.dtype == torch.uint8:
        teacher_preprocess = teacher_preprocess or Preprocess.identity()
        student_preprocess = student_preprocess or Preprocess.identity()
    kept = stored = None
    if cache is not None:
        kept, stored = Cache.of(cache), findable(data, place)
        check_methods([plan])
        if not plan.needs_teacher:
            talk.warn(f"cache has no effect: {plan.name} does not listen to the teacher")
    if examples.probe.main.label is None:
        check_terms([plan])
    for text in untaught_answers([plan]):
        talk.warn(text)
    preprocesses = dict.fromkeys(["teacher", *others], teacher_preprocess) | {"student": student_preprocess}
    classes = classes_of({"teacher": teacher, "student": student, **others}, preprocesses, examples)
    if isinstance(examples.loader, Given | Ordered):
        examples.loader.classes = classes
        if out is not None:
            talk.say("data of your own is read in its own way: a stopped run resumes at the beginning of an epoch")
    info = replace(examples.info, classes=classes)
    examples = replace(examples, info=info, valid=held(valid, place, classes))
    folder = None if out is None else Path(out)
    claimed = nullcontext()
    if folder is not None:
        names = {"teacher": _name(teacher), "student": _name(student)}
        names |= {name: _name(module) for name, module in others.items()}
        values = {"recipe": {**names, "method": plan.expansion, "fit": asdict(fit), "seed": seed}}
        claimed = runs.claim(folder, {**values, "environment": runs.environment()}, resume)
    with claimed:
        if plan.adapts:  # the network around the student answers in the classes of the data
            student = _adapted(student, teacher, plan, examples, student_preprocess, teacher_preprocess, seed)
            if student_preprocess is not None:
                student_preprocess = replace(student_preprocess, label_map=None)

        def measured() -> Choice:
            taught = teacher if plan.needs_teacher else None
            with frozen(others, examples, teacher_preprocess, Precision()) as heard:
                both = student_preprocess, teacher_preprocess
                return choose_precision(student, taught, plan, examples, fit, *both, compiling=True, assistants=heard)

        arithmetic, why = runs.settle_precision(folder, precision, measured)
        talk.say(f"method {plan.name}: {plan.plan}; precision: {why}")
        known = arithmetic if kept is None else kept.precision(precision, arithmetic)
        with frozen({"teacher": teacher, **others}, examples, teacher_preprocess, known) as heard:
            guide = heard.pop("teacher")
            looked = _look(guide, examples, classes, talk)
            answers = None if examples.valid is None else looked.predictions
            speaker: Source | None = guide if plan.needs_teacher else None
            if kept is not None and stored is not None and speaker is not None:
                speaker = standing_in(
                    kept,
                    guide,
                    stored,
                    plan,
                    student,
                    examples,
                    fit,
                    seed=seed,
                    preprocess=student_preprocess,
                    talk=talk,
                )
            with talk.bars(len(plan.stages)) as begin:
                engine, done = train_stages(
                    student,
                    speaker,
                    plan,
                    lambda _: examples,
                    fit,
                    assistants=heard,
                    begin=begin,
                    label=plan.name,
                    resume=resume,
                    seed=seed,
                    preprocess=student_preprocess,
                    precision=arithmetic,
                    reference=answers,
                    folder=folder,
                )
    final = None if examples.valid is None else final_evaluation(engine, examples, answers)
    if final is not None:
        agrees = f"agrees with the teacher on {final.agreement:.2f} %"
        answer = agrees if final.top1 is None else f"{final.top1:.2f} % ({agrees})"
        talk.say(f"student: {answer if plan.classifies else 'learnt features, no classifier'}")
    if engine.student is not student:  # the moving average
        student.load_state_dict(engine.student.state_dict())
    lay_out(student, torch.contiguous_format)
    if folder is not None:
        talk.say(runs.waiting(folder))
        card: dict[str, Any] = {
            "model": {"class": names["student"]},
            "preprocess": student_preprocess.describe() if student_preprocess else None,
            "method": plan.name,
            "expansion": plan.expansion,
            "seed": seed,
            **adaptation(student),
        }
        if isinstance(data, Split):
            card |= {
                "classes": list(data.classes),
                "channels": data.channels,
                "size": list(data.size),
                "part": data.part,
            }
        save_student(folder, student, card)
        if final is not None:
            _report(folder, plan, teacher, student, looked, final, done, seed)
    return student.eval()


def _plan(method: str | Sequence[Term]) -> Method:
    if isinstance(method, str):
        return parse(method)
    terms = tuple(method)
    if not terms or not all(isinstance(term, Term) for term in terms):
        raise ValueError(f"method must be a string such as 'icd+kd' or a list of potstill.Term, got {method!r}")
    return Method.of("custom", terms)


def _adapted(
    student: nn.Module,
    teacher: nn.Module,
    plan: Method,
    examples: Examples,
    student_preprocess: Preprocess | None,
    teacher_preprocess: Preprocess | None,
    seed: int,
) -> nn.Module:
    """The network that the method trains, on the student's device."""
    guide = source(teacher, examples.probe, trained=False, preprocess=teacher_preprocess, precision=Precision())
    try:
        return adapted(student, guide, plan, examples, seed=seed, preprocess=student_preprocess)
    finally:
        guide.close()


def _look(guide: Network, examples: Examples, classes: int, talk: Talk) -> Evaluation:
    """What the teacher is worth."""
    task = Classify()
    if examples.valid is not None:
        return examine(guide, task, examples.valid, classes, talk)
    talk.say("no validation data: the teacher is looked at on training data, and nothing is evaluated")
    return examine(guide, task, lambda: islice(examples.loader.epoch(0), 10), classes, talk, what="training")


def _report(
    folder: Path,
    plan: Method,
    teacher: nn.Module,
    student: nn.Module,
    looked: Evaluation,
    final: Evaluation,
    done: Result,
    seed: int,
) -> None:
    cell = Cell(
        method=plan.name,
        seed=seed,
        top1=final.top1,
        best_top1=max((row["top1"] for row in done.history if "top1" in row), default=None),
        agreement=final.agreement,
        parameters=runs.parameters(student),
        seconds=done.seconds,
        expansion=plan.expansion,
        folder=".",
        teacher_free=not plan.needs_teacher,
        classifies=plan.classifies,
    )
    card = {
        "model": _name(teacher),
        **({} if looked.top1 is None else {"top1": looked.top1}),
        "parameters": runs.parameters(teacher),
        "seconds": 0.0,
    }
    notes, extra = untaught_answers([plan]), {} if final.top1 is not None else {"measure": "agreement"}
    summary = summarise(dataset="your data", teacher=card, cells=[cell], run=str(folder), notes=notes, **extra)
    checkpoint.write_json(folder / runs.SUMMARY, summary)
    write_report(folder)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _device_of(module: nn.Module) -> torch.device:
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
