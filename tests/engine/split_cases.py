"""What is split: terms for the engine, and `means`, the plain formulas for the mean of every term.

`observe` runs the engine, `expect` a plain loop over the whole batch with one autograd call a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from engine_kit import (
    FIT,
    SAMPLES,
    Differences,
    Distance,
    Drawn,
    Gram,
    LargestOfTeacher,
    LazyHead,
    Normalised,
    Queue,
    Scores,
    example,
    make,
    sequences,
)
from split_formulas import (
    Scene,
    differences,
    largest_kd,
    masked_icd,
    plain_ce,
    plain_crd,
    plain_drawn,
    plain_gram,
    plain_icd,
    plain_kd,
    plain_normalised,
    plain_queue,
    plain_rrd,
    scores,
    tokens,
)
from torch import Tensor

from potstill.objectives import CRD, ICD, KD, RRD, CrossEntropy
from potstill.sharding import full
from potstill.tasks.classify import Classify
from potstill.terms import Spec, Term
from potstill.types import Batch, Progress

STEPS = 2


def falling(progress: Progress) -> float:
    return (0.5, 0.125)[progress.step]


def shared_head() -> list[Term]:
    torch.manual_seed(5)
    icd = ICD(5, 7, width=4)
    return [Term(icd, "embedding@main", "embedding@main"), Term(icd, "embedding@other", "embedding@other")]


def frozen_head() -> list[Term]:
    torch.manual_seed(5)
    icd = ICD(5, 7, width=4)
    icd.teacher_head.requires_grad_(False)
    icd.log_scale.requires_grad_(False)
    queue = Queue(5, 7)
    queue.head.requires_grad_(False)
    return [Term(icd), Term(queue)]


def contrast() -> list[Term]:
    """All samples but one are of one class."""
    torch.manual_seed(5)
    labels = torch.arange(SAMPLES) == SAMPLES - 1
    return [Term(CRD(5, 7, SAMPLES, labels, width=4, negatives=6, temperature=0.5))]


SMALL = Spec.of(ICD, width=4)
RELATIONS = Spec.of(RRD, width=4, size=20, version="2025", tau_s=0.5, tau_t=0.2)


@dataclass
class Case:
    terms: Callable[[], list[Term]]
    means: Callable[[Scene], list[Tensor]]
    weights: Callable[[int], list[float]] = lambda step: [1.0]
    batch: Callable[[int], Batch] = example
    task: type[Classify] = Classify


CASES = {
    "ce": Case(lambda: [Term(CrossEntropy)], lambda s: [plain_ce(s)]),
    "kd": Case(lambda: [Term(KD)], lambda s: [plain_kd(s)]),
    "icd": Case(lambda: [Term(SMALL)], lambda s: [plain_icd(s)]),
    "icd+kd": Case(
        lambda: [Term(SMALL, weight=falling), Term(KD, weight=0.3), Term(CrossEntropy, weight=0.7)],
        lambda s: [plain_icd(s), plain_kd(s), plain_ce(s)],
        lambda step: [(0.5, 0.125)[step], 0.3, 0.7],
    ),
    "icd, masked": Case(lambda: [Term(SMALL)], lambda s: [masked_icd(s)], batch=lambda i: example(i, mask=True)),
    "queue": Case(lambda: [Term(Queue)], lambda s: [plain_queue(s)]),
    "queue+icd": Case(
        lambda: [Term(Queue), Term(SMALL)], lambda s: [plain_queue(s), plain_icd(s, 1)], lambda step: [1.0, 1.0]
    ),
    "prime": Case(lambda: [Term(Normalised)], lambda s: [plain_normalised(s)]),
    "draw": Case(lambda: [Term(Drawn)], lambda s: [plain_drawn(s)]),
    "rrd": Case(lambda: [Term(RELATIONS)], lambda s: [plain_rrd(s)]),
    "crd": Case(contrast, lambda s: [plain_crd(s)]),
    "tokens": Case(
        lambda: [Term(CrossEntropy), Term(KD, weight=0.5), Term(Distance, weight=0.25)],
        tokens,
        lambda step: [1.0, 0.5, 0.25],
        sequences,
    ),
    "lazy tokens": Case(
        lambda: [Term(CrossEntropy), Term(KD, weight=0.5)],
        lambda s: tokens(s)[:2],
        lambda step: [1.0, 0.5],
        sequences,
        LazyHead,
    ),
    "largest beside related": Case(
        lambda: [Term(Spec.of(KD, temperature=4)), Term(SMALL, "middle", "middle")],
        lambda s: [largest_kd(s), plain_icd(s, 1)],
        lambda step: [1.0, 1.0],
        task=LargestOfTeacher,
    ),
    "lazy beside related": Case(
        lambda: [Term(Spec.of(KD, temperature=4)), Term(SMALL, "middle", "middle")],
        lambda s: [plain_kd(s), plain_icd(s, 1)],
        lambda step: [1.0, 1.0],
        task=LazyHead,
    ),
    "whole batch": Case(lambda: [Term(Gram)], lambda s: [plain_gram(s)], batch=lambda i: example(i, mask=True)),
    "scores": Case(lambda: [Term(KD), Term(SMALL)], scores, lambda step: [1.0, 1.0], task=Scores),
    "differences": Case(
        lambda: [
            Term(CrossEntropy),
            Term(Distance, "output@difference", "output@difference", weight=0.5),
            Term(SMALL, "embedding@difference", "embedding@difference"),
            Term(SMALL, "embedding@other", "embedding@other", weight=0.25),
        ],
        differences,
        lambda step: [1.0, 0.5, 1.0, 0.25],
        task=Differences,
    ),
    "shared head": Case(shared_head, lambda s: [plain_icd(s), plain_icd(s, 1, "other")], lambda step: [1.0, 1.0]),
    "frozen head": Case(frozen_head, lambda s: [plain_icd(s), plain_queue(s, 1)], lambda step: [1.0, 1.0]),
}


@dataclass
class Seen:
    """Gradients of every step by parameter (None: none), means of the terms, and the objectives' buffers."""

    gradients: list[dict[str, Tensor | None]]
    means: list[float]
    buffers: dict[str, Tensor]
    draws: list[Tensor]


def observe(name: str, precision: str, micro: int | None, rank: int = 0, world: int = 1, shard: bool = False) -> Seen:
    """Train two steps with the engine. Gradients that are divided among ranks are put together."""
    case, gradients = CASES[name], []

    def look(progress: Progress) -> None:
        found = engine.held.system.named_parameters()
        gradients.append({n: None if p.grad is None else full(p.grad).clone() for n, p in found})

    engine = make(
        case.terms(),
        [case.batch(step) for step in range(STEPS)],
        task=case.task(),
        fit=replace(FIT, micro_batch=micro, shard=shard),
        precision=precision,
        rank=rank,
        world=world,
        on_step=look,
    )
    result = engine.run()
    draws = [draw for term in engine.system.terms for draw in getattr(term.objective, "draws", ())]
    return Seen(gradients, list(result.history[0]["terms"].values()), dict(engine.system.terms.named_buffers()), draws)


def expect(name: str, draws: Sequence[Tensor] = ()) -> Seen:
    """The same two steps in a plain loop over the whole batch, in float64 from the same weights."""
    case = CASES[name]
    engine = make(case.terms(), [case.batch(step) for step in range(STEPS)], task=case.task(), precision="float64")
    student, teacher = (copy.deepcopy(engine.sources[role].module) for role in ("student", "teacher"))
    objectives = copy.deepcopy([term.objective for term in engine.system.terms])
    named = {f"networks.student.{n}": p for n, p in student.named_parameters()}
    for number, objective in enumerate(objectives):
        fresh = {n: p for n, p in objective.named_parameters() if all(p is not q for q in named.values())}
        named |= {f"terms.{number}.objective.{n}": p for n, p in fresh.items()}
    memory, gradients, sums = {"draws": list(draws)}, [], torch.zeros(len(objectives), dtype=torch.float64)
    for step in range(STEPS):
        means = case.means(Scene(student, teacher, objectives, case.batch(step), memory))
        total = sum(weight * value for weight, value in zip(case.weights(step), means, strict=True))
        trained = {n: p for n, p in named.items() if p.requires_grad}
        found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        gradients.append(dict.fromkeys(named) | dict(zip(trained, found, strict=True)))
        with torch.no_grad():
            for parameter, gradient in zip(trained.values(), found, strict=True):
                if gradient is not None:
                    parameter -= 0.1 * gradient
        sums += torch.stack(means).detach() / STEPS
    buffers = {n: torch.stack(v) if isinstance(v, list) and v else v for n, v in memory.items() if n != "draws"}
    return Seen(gradients, sums.tolist(), buffers, list(draws))


def compare(found: Seen, expected: Seen, tolerance: float) -> None:
    """Everything equal, relative to the size of what is compared."""
    for number, (ours, theirs) in enumerate(zip(found.gradients, expected.gradients, strict=True)):
        assert ours.keys() == theirs.keys()
        largest = max(g.abs().max().item() for g in theirs.values() if g is not None)
        for name, gradient in theirs.items():
            if gradient is None:
                assert ours[name] is None, f"step {number}: {name} has a gradient"
                continue
            size = max(gradient.abs().max().item(), 0.1 * largest)
            error = (ours[name] - gradient).abs().max().item() / size
            assert error < tolerance, f"step {number}: gradient of {name} is off by {error:.1e}"
    for ours, theirs in zip(found.means, expected.means, strict=True):
        assert abs(ours - theirs) <= tolerance * abs(theirs), f"mean {ours} instead of {theirs}"
    for name, buffer in expected.buffers.items():
        ours = next(value for key, value in found.buffers.items() if key.endswith(name))
        if buffer.is_floating_point():
            assert (ours - buffer).abs().max() <= tolerance * buffer.abs().max(), name
        else:
            assert torch.equal(ours, buffer), name
