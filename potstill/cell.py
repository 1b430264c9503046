"""One cell of a comparison: one student, one method, one seed. `distill()` and every command train through here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from potstill.callbacks import Callback
from potstill.compiling import consider
from potstill.data.preprocess import Preprocess
from potstill.engine import Engine
from potstill.hashing import hash_int
from potstill.loop import Loader, Result
from potstill.methods import Method
from potstill.precision import Choice, Precision, choose
from potstill.recipe import Fit
from potstill.scheme import Scene
from potstill.sources import Network, Shuffled
from potstill.stages import Stage
from potstill.taps import probe, untouched
from potstill.tasks.classify import Classify, Evaluation
from potstill.terms import Spec
from potstill.types import MAIN, Batch, DataInfo, LiveSource, Objective, Outputs, Progress, Source, Task
from potstill.wiring import Weights, wire


@dataclass(frozen=True)
class Examples:
    """What a cell learns from: the training loader, validation batches (or none), and what objectives may know."""

    loader: Loader
    info: DataInfo
    probe: Batch
    valid: Callable[[], Iterable[Batch]] | None = None

    def held(self) -> Iterable[Batch]:
        """The validation batches, of a cell that has some."""
        assert self.valid is not None, "there is no validation data"
        return self.valid()


def source(
    module: nn.Module, batch: Batch, *, trained: bool, preprocess: Preprocess | None, precision: Precision
) -> Network:
    """A live network with the taps that one probe finds; the network is left bit-identical."""
    device = batch.main.index.device
    precision.place(module, device)
    # The label map makes another tensor of the answer, in which the Linear that made it would not be recognised.
    unmapped = None if preprocess is None else replace(preprocess, label_map=None)
    blank = Network(module, trained=trained, preprocess=unmapped, precision=precision)
    try:
        found = probe(module, lambda: blank(Classify(), batch, MAIN, ()).dense())
    except BaseException as error:
        blank.close()
        if isinstance(error, RuntimeError | TypeError | IndexError | AssertionError):
            raise ValueError(
                f"{type(module).__name__} cannot run on an input of shape {list(batch.main.input.shape)} and dtype "
                f"{batch.main.input.dtype}: {error}"
            ) from error
        raise
    blank.preprocess = preprocess
    return blank.with_names(found.names)


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
        return source(module, examples.probe, trained=True, preprocess=preprocess, precision=precision)

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
    task: Task = Classify()
    callbacks: Sequence[Callback] = ()
    if method.scheme is not None:
        scene = Scene(sources, examples, fit, seed, peer)
        sources |= method.scheme.sources(scene)
        scene = replace(scene, sources=sources)
        examples, callbacks = method.scheme.examples(scene), method.scheme.callbacks(scene)
        task = method.scheme.task(scene)
    if method.control == "shuffled":
        sources = {name: one if one.trained else Shuffled(one) for name, one in sources.items()}
    terms = (stage or method.stages[-1]).terms
    wired = wire(terms, sources, task, examples.probe, examples.info, seed, handed)

    def evaluate(student: LiveSource) -> dict[str, Any]:
        found = Classify().evaluate(student, examples.held(), reference)
        measured = {"top1": found.top1, "valid_loss": found.loss}
        return measured if reference is None else measured | {"agreement": found.agreement}

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


def started_anew(student: nn.Module, seed: int, name: str) -> nn.Module:
    """A copy of a network with initial weights of its own, where nobody says how they are made.

    Raises ValueError for a network with parameters that no `reset_parameters` of its layers draws again.
    """
    fresh = copy.deepcopy(student)
    drawn: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_int(seed, "peer", name))
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                drawn |= {id(p) for p in module.parameters()}
    if kept := [path for path, p in fresh.named_parameters() if id(p) not in drawn]:
        raise ValueError(
            f"{type(student).__name__} cannot be given other initial weights: nothing draws {kept[0]} again; "
            "give its layers reset_parameters()"
        )
    return fresh


def adapted(
    student: nn.Module,
    teacher: Source | None,
    method: Method,
    examples: Examples,
    *,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    fresh: Callable[[str], nn.Module] | None = None,
) -> nn.Module:
    """The network that a method trains: the student, or what its scheme or an objective builds around the student."""

    def listen(source: Source, taps: Sequence[str]) -> Outputs:
        with untouched(source.module) if source.module is not None else nullcontext(), torch.no_grad():
            return source(Classify(), examples.probe, MAIN, taps)

    makers = [term.label for term in method.adapting]
    if method.scheme is not None and method.scheme.adapts:
        guided = source(student, examples.probe, trained=True, preprocess=preprocess, precision=Precision())
        anew = fresh or (lambda name: started_anew(guided.module, seed, name))
        student = method.scheme.adapt(guided, examples.probe, anew, seed)
        makers.insert(0, "the scheme")
    if len(makers) > 1:
        raise ValueError(f"{' and '.join(makers)} each make another network of the student")
    if teacher is None:
        return student
    for term in method.adapting:
        if isinstance(term.objective, Objective):
            raise ValueError(f"term {term.label!r}: give the class or a Spec; it is built with the student's network")
        if teacher.module is None:
            raise ValueError(
                f"method {method.name!r} builds its student from modules of the teacher, and what stands in for that "
                "one (a cache) has none; use the live network"
            )
        options = dict(term.objective.kwargs) if isinstance(term.objective, Spec) else {}
        guided = source(student, examples.probe, trained=True, preprocess=preprocess, precision=Precision())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash_int(seed, "adapt", term.label))
            student = term.kind.adapt(guided, cast(LiveSource, teacher), listen, **options) or student
    return student


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


def final_evaluation(engine: Engine, examples: Examples, reference: Tensor | None) -> Evaluation:
    """The trained student once more, with its predictions."""
    return Classify().evaluate(engine.evaluated, examples.held(), reference)


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
    **kw: Any,
) -> Choice:
    """Measure real steps on throw-away copies: weights, statistics and random state stay as they are.

    With `compiling` also compiled ones, where a student's training is long enough (`compiling.consider`).
    """
    device = examples.probe.main.index.device

    def step(precision: Precision) -> Callable[[], None]:
        guide = None if isinstance(teacher, nn.Module) else teacher
        if isinstance(teacher, nn.Module):
            guide = source(
                copy.deepcopy(teacher), batch, trained=False, preprocess=teacher_preprocess, precision=precision
            )
        engine = assemble(
            copy.deepcopy(student), guide, method, examples, fit, preprocess=preprocess, precision=precision, **kw
        )
        engine.begin()
        return lambda: engine.train_on(batch)

    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        batch = next(iter(examples.loader.epoch(0)))  # a loader of somebody else's may draw random numbers
        choice = choose(step, device, rounds)
        return consider(choice, step, fit.epochs * examples.loader.steps, device, rounds) if compiling else choice
