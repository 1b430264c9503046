"""`potstill.distill(teacher, student, data)`: any two networks, any data, from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from potstill import checkpoint, runs
from potstill.cell import Examples, adapted, choose_precision, final_evaluation, source, train_stages
from potstill.console import Talk
from potstill.data import Preprocess, Split, batches, training
from potstill.data.foreign import Given, Ordered, check_labels, in_order, labels_of
from potstill.evaluation.summary import Cell, summarise
from potstill.loop import Result
from potstill.methods import Method, parse
from potstill.precision import Precision, lay_out
from potstill.ranks import start
from potstill.recipe import Fit
from potstill.report.page import write_report
from potstill.setting import unused
from potstill.sources import Network
from potstill.student import adaptation, save_student
from potstill.tasks.classify import Classify, Evaluation
from potstill.teachers import check_modules, classes_of, examine
from potstill.terms import Term
from potstill.types import Batch, DataInfo

EVALUATION_BATCH = 256


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
    teacher_preprocess: Preprocess | None = None,
    student_preprocess: Preprocess | None = None,
    precision: str = "auto",
    device: str | torch.device | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> nn.Module:
    """Train `student` in place with what `teacher` knows, and return it in evaluation mode.

    The two networks may be any modules that return logits `[B, K]`; nothing in them is edited. Where to look in them
    is found by one probe, or named by module path in `method` (a list of `Term`s). A method whose student is another
    network at inference too (`simkd`) returns that network, with `student` inside.

    Args:
        data: training data: `potstill.data.Images` (taken as they are, not augmented), a `potstill.data.Stream` (with
            its own augmentation), a pair of tensors `(inputs, labels)`, a map-style `Dataset` of `(input, label)`, or
            a loader that yields `(input, label)` batches.
        valid: validation data in any of these forms. Without it nothing is evaluated, and the teacher is looked at
            on training data.
        method: e.g. `"icd+kd"`, `"kd"`, `"icd:1.0+kd:0.5"`, or terms, e.g.
            `[Term(CrossEntropy), Term(FitNet, "layer2", "layer3", weight=100)]`.
        epochs, batch_size: as usual; a loader of your own brings its batch size.
        fit: everything about training, if these two are not enough.
        teacher_preprocess, student_preprocess: what each network does to its input. Left out: nothing for floating
            point inputs, pixels in [0, 1] for uint8 ones.
        precision: `auto` measures a few steps and takes what is fastest on this device.
        device: where to train; the student's own device when left out.
        out: a run folder (metrics, checkpoint, weights, report); without it nothing is written.
        resume: go on with the run in `out`.

    Raises:
        ValueError: anything that would fail or mislead later: an unknown method or tap, labels out of range, a
            teacher that returns NaN or another number of classes, an `out` that holds another run.
        potstill.Interrupted: Ctrl-C; the checkpoint is saved when there is an `out`.

    >>> student = potstill.distill(teacher, student, (x, y), valid=(x2, y2), method="icd+kd")  # doctest: +SKIP
    """
    talk = Talk(quiet=quiet)
    plan = _plan(method)
    check_modules(teacher, student)
    place = start(str(device)) if device is not None else _device_of(student)
    asked = fit or Fit(epochs=epochs, batch_size=batch_size)
    examples = _examples(data, asked, place, seed)
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
    preprocesses = {"teacher": teacher_preprocess, "student": student_preprocess}
    classes = classes_of({"teacher": teacher, "student": student}, preprocesses, examples)
    if isinstance(examples.loader, Given | Ordered):
        examples.loader.classes = classes
        if out is not None:
            talk.say("data of your own is read in its own way: a stopped run resumes at the beginning of an epoch")
    examples = replace(examples, valid=_held(valid, place, classes))
    folder = None if out is None else Path(out)
    claimed = nullcontext()
    if folder is not None:
        names = {"teacher": _name(teacher), "student": _name(student)}
        values = {"recipe": {**names, "method": plan.expansion, "fit": asdict(fit), "seed": seed}}
        claimed = runs.claim(folder, {**values, "environment": runs.environment()}, resume)
    with claimed:
        if plan.adapts:  # the network around the student answers in the classes of the data
            student = _adapted(student, teacher, plan, examples, student_preprocess, teacher_preprocess, seed)
            if student_preprocess is not None:
                student_preprocess = replace(student_preprocess, label_map=None)
        arithmetic, why = runs.settle_precision(
            folder,
            precision,
            lambda: choose_precision(
                student,
                teacher if plan.needs_teacher else None,
                plan,
                examples,
                fit,
                student_preprocess,
                teacher_preprocess,
            ),
        )
        talk.say(f"method {plan.name}: {plan.plan}; precision: {why}")
        guide = source(teacher, examples.probe, trained=False, preprocess=teacher_preprocess, precision=arithmetic)
        try:
            looked = _look(guide, examples, classes, talk)
            answers = None if examples.valid is None else looked.predictions
            with talk.bars(len(plan.stages)) as begin:
                engine, done = train_stages(
                    student,
                    guide if plan.needs_teacher else None,
                    plan,
                    lambda _: examples,
                    fit,
                    begin=begin,
                    label=plan.name,
                    resume=resume,
                    seed=seed,
                    preprocess=student_preprocess,
                    precision=arithmetic,
                    reference=answers,
                    folder=folder,
                )
        finally:
            guide.close()
    final = None if examples.valid is None else final_evaluation(engine, examples, answers)
    if final is not None:
        talk.say(f"student: {final.top1:.2f} % (agrees with the teacher on {final.agreement:.2f} %)")
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
            card |= {"classes": list(data.classes), "channels": data.channels, "size": list(data.size)}
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


def _examples(data: Any, fit: Fit, device: torch.device, seed: int) -> Examples:
    """A loader for whatever was given, and the first batch for the probe."""
    data, labels = _resident(data, "train")
    if isinstance(data, Split):
        loader: Any = training(data, fit.batch_size, augment="none", seed=seed, device=device, drop_last=fit.drop_last)
    elif isinstance(data, Dataset):
        loader = Ordered(data, fit.batch_size, device, seed)
    else:
        loader = Given(data, device)
    info = DataInfo(loader.samples, loader.batch_size, labels=labels, indexed=getattr(loader, "indexed", True))
    return Examples(loader, info, next(iter(loader.epoch(0))))


def _held(valid: Any, device: torch.device, classes: int) -> Callable[[], Iterator[Batch]] | None:
    held, labels = _resident(valid, "valid")
    if held is None:
        return None
    if labels is not None:
        check_labels(labels, classes)
    if isinstance(held, Split):
        return lambda: batches(held, EVALUATION_BATCH, device)
    return lambda: in_order(held, EVALUATION_BATCH, device, classes)


def _resident(data: Any, split: str) -> tuple[Any, Tensor | None]:
    """A pair of tensors becomes a data set; the labels are given back where they are known."""
    if isinstance(data, Split):
        return data, data.labels
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise ValueError(f"{split} data: {len(data[0])} inputs but {len(data[1])} labels")
        return TensorDataset(*data), data[1]
    return data, labels_of(data) if isinstance(data, Dataset) else None


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
        best_top1=max(row["top1"] for row in done.history if "top1" in row),
        agreement=final.agreement,
        parameters=runs.parameters(student),
        seconds=done.seconds,
        expansion=plan.expansion,
        folder=".",
        teacher_free=not plan.needs_teacher,
    )
    card = {
        "model": _name(teacher),
        "top1": looked.top1,
        "parameters": runs.parameters(teacher),
        "seconds": 0.0,
    }
    summary = summarise(dataset="your data", teacher=card, cells=[cell], run=str(folder))
    checkpoint.write_json(folder / runs.SUMMARY, summary)
    write_report(folder)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _device_of(module: nn.Module) -> torch.device:
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
