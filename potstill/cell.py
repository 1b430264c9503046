"""One cell of a comparison: one student, one method, one seed. `distill()` and every command train through here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.adapting import started_anew
from potstill.callbacks import Callback
from potstill.compiling import consider
from potstill.data.preprocess import Preprocess
from potstill.engine import Engine
from potstill.examples import Examples, source
from potstill.loop import Result
from potstill.methods import Method
from potstill.plateau import Plateau
from potstill.precision import Choice, Precision, choose
from potstill.recipe import Fit
from potstill.scheme import Scene
from potstill.sources import Network, Shuffled
from potstill.stages import Stage
from potstill.types import LiveSource, Progress, Source, Task, Teaches
from potstill.wiring import Weights, wire


def assemble(
    student: nn.Module,
    teacher: Source | None,
    method: Method,
    examples: Examples,
    fit: Fit,
    *,
    stage: Stage | None = None,
    assistants: Mapping[str, Source] | None = None,
    fresh: Callable[[str], nn.Module] | None = None,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    precision: Precision | None = None,
    reference: Tensor | None = None,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    handed: Mapping[str, Weights] | None = None,
    evaluated: bool = True,
) -> Engine:
    """Sources, wired terms and an engine for one student and one stage of a method, the main one when left out.

    `assistants` are more teachers by name. `fresh(name)` makes another network like the student, for methods with
    peers. `handed` holds the objectives' weights of earlier stages by term name; without it a term's `init` waits for
    the real run.
    """
    precision = precision or Precision()

    def trained(module: nn.Module) -> Network:
        return source(
            module, examples.probe, trained=True, preprocess=preprocess, precision=precision, task=examples.task
        )

    def peer(name: str) -> Network:
        return trained(fresh(name) if fresh is not None else started_anew(student, seed, name))

    if method.control is not None and fit.micro_batch == 1:
        raise ValueError(
            f"the control {method.control!r} pairs samples that run at once; fit.micro_batch must be at least 2"
        )
    sources: dict[str, Source] = {"student": trained(student)}
    if teacher is not None:
        sources["teacher"] = teacher
    sources |= assistants or {}
    plain = examples.task
    task: Task = plain
    watched = examples.watched
    if fit.schedule == "plateau" and watched is None:
        raise ValueError("fit.schedule plateau has nothing to watch: set data.watched in a recipe")
    callbacks: Sequence[Callback] = [Plateau(fit.patience)] if fit.schedule == "plateau" else []
    if method.scheme is not None:
        scene = Scene(sources, examples, fit, seed, peer)
        sources |= method.scheme.sources(scene)
        scene = replace(scene, sources=sources)
        examples, callbacks = method.scheme.examples(scene), [*callbacks, *method.scheme.callbacks(scene)]
        task = method.scheme.task(scene)
    if method.control == "shuffled":
        sources = {name: _of_another(one) for name, one in sources.items()}
    terms = (stage or method.stages[-1]).terms
    wired = wire(terms, sources, task, examples.probe, examples.info, seed, handed)

    def evaluate(student: LiveSource) -> dict[str, Any]:
        measured = plain.evaluate(student, examples.held(), reference).measured
        if watched is not None:
            seen = plain.evaluate(student, watched())
            measured |= {} if seen.top1 is None else {"watched_top1": seen.top1, "watched_loss": seen.loss}
        return measured

    return Engine(
        task=task,
        sources=sources,
        terms=wired,
        loader=examples.loader,
        fit=fit,
        seed=seed,
        device=examples.probe.main.index.device,
        evaluate=evaluate if evaluated and examples.valid is not None else None,
        callbacks=callbacks,
        folder=folder,
        on_step=on_step,
    )


def _of_another(source: Source) -> Source:
    """The control of whoever teaches; students and peers speak for themselves."""
    if isinstance(source, Teaches):
        return source.shuffled()
    return source if source.trained else Shuffled(source)


def prepared(
    student: nn.Module,
    teacher: Source | None,
    method: Method,
    examples: Callable[[Fit], Examples],
    fit: Fit,
    *,
    begin: Callable[[str, int], Callable[[Progress], None]],
    label: str,
    resume: bool = False,
    folder: Path | None = None,
    heard: Source | None = None,
    **kw: Any,
) -> Engine:
    """The engine of a method's main stage, once the stages in front of it are trained, one after the other.

    What an earlier stage learns is handed on. Each has a folder of its own in the cell's; a finished one is not run
    again by a resumed run. `heard` speaks for the teacher in the main stage, where several students share it.
    """
    handed: dict[str, Weights] = {}
    spent = Result()
    for stage in method.stages:
        main, asked = stage is method.stages[-1], stage.fit(fit)
        engine = assemble(
            student,
            heard or teacher if main else teacher,
            method,
            examples(asked),
            asked,
            stage=stage,
            folder=folder / stage.name if folder else None,
            handed=handed,
            evaluated=main,
            **kw,
        )
        engine.on_step = begin(f"{label} ({stage.name})" if stage.name else label, engine.total)
        if main:
            engine.result.seconds, engine.result.waited = spent.seconds, spent.waited
            return engine
        done = engine.run(resume=resume)
        spent = Result([], spent.seconds + done.seconds, spent.waited + done.waited)
        handed |= {term.name: term.objective.state_dict() for term in engine.system.wired}
    raise AssertionError("a method has a main stage")


def train_stages(student: nn.Module, *args: Any, resume: bool = False, **kw: Any) -> tuple[Engine, Result]:
    """All stages of a method on one student; see `prepared`."""
    engine = prepared(student, *args, resume=resume, **kw)
    return engine, engine.run(resume=resume)


def final_evaluation(engine: Engine, examples: Examples, reference: Tensor | None) -> Any:
    """The trained student once more, with its predictions."""
    return examples.task.evaluate(engine.evaluated, examples.held(), reference)


def choose_precision(
    student: nn.Module,
    teacher: nn.Module | Source | None,
    method: Method,
    examples: Examples,
    fit: Fit,
    preprocess: Preprocess | None,
    teacher_preprocess: Preprocess | None,
    rounds: int = 5,
    compiling: bool = False,
    assistants: Mapping[str, Source] | None = None,
    guided: Callable[[Precision], Source] | None = None,
    **kw: Any,
) -> Choice:
    """Measure real steps on throw-away copies: weights, statistics and random state stay as they are.

    `guided` makes a teacher that reads something else than the student does, in place of `teacher`. With `compiling`
    also compiled ones, where a student's training is long enough (`compiling.consider`).
    """
    device = examples.probe.main.index.device

    def step(precision: Precision) -> Callable[[], None]:
        def frozen(module: nn.Module, own: Preprocess | None) -> Network:
            return source(
                copy.deepcopy(module), batch, trained=False, preprocess=own, precision=precision, task=examples.task
            )

        guide = frozen(teacher, teacher_preprocess) if isinstance(teacher, nn.Module) else teacher
        if guided is not None:
            guide = guided(precision)
        others = {
            name: frozen(one.module, one.preprocess) if isinstance(one, Network) else one
            for name, one in (assistants or {}).items()
        }
        given: dict[str, Any] = {"assistants": others, "preprocess": preprocess, "precision": precision, **kw}
        engine = assemble(copy.deepcopy(student), guide, method, examples, fit, **given)
        engine.begin()
        return lambda: engine.train_on(batch)

    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        batch = next(iter(examples.loader.epoch(0)))  # a loader of somebody else's may draw random numbers
        images = isinstance(examples.probe.main.input, Tensor)
        choice = choose(step, device, rounds, images)
        compiling = compiling and images
        return consider(choice, step, fit.epochs * examples.loader.steps, device, rounds) if compiling else choice
