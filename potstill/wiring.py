"""Build the terms of a run from one look at what the sources say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.hashing import hash_int
from potstill.step import System
from potstill.taps import stages_of, untouched
from potstill.terms import Address, Spec, Term, Wired
from potstill.types import (
    Answer,
    Batch,
    DataInfo,
    LazyLogits,
    Objective,
    Progress,
    Side,
    Source,
    SourceOutputs,
    Stateful,
    Task,
    TopLogits,
)

Weights = Mapping[str, Tensor]


def wire(
    terms: Sequence[Term],
    sources: Mapping[str, Source],
    task: Task,
    batch: Batch,
    data: DataInfo,
    seed: int = 0,
    handed: Mapping[str, Weights] | None = None,
) -> list[Wired]:
    """Resolve addresses, run every source once on `batch`, size every objective, and hand over earlier weights.

    The probe leaves the networks bit-identical, and what the task remembers as it was. Raises ValueError for an unknown
    source, view or tap, for a teacher whose answer is not finite, and for a loss that relates samples when the batch
    has only one.
    """
    remembered = task.state_dict() if isinstance(task, Stateful) else {}
    batch = next(iter(task.prepare(batch, sources, Progress(0, 0, 1), seed)))
    if isinstance(task, Stateful):
        task.load_state_dict(remembered)
    drafts = [_draft(term, number, terms, sources, batch) for number, term in enumerate(terms)]
    system = System(task, sources, [])
    outputs = _listen(system, drafts, batch)
    built = []
    for term, draft in zip(terms, drafts, strict=True):
        student, teacher = draft.sides(outputs)
        _check_lazy(draft.name, term, student, teacher)
        _check_top(draft.name, term, student, teacher)
        if draft.right is not None:
            _check_finite(draft.name, draft.right.source, teacher)
        objective = _build(term, draft, student, teacher, data, sources, seed)
        if isinstance(teacher, TopLogits):
            _check_temperature(draft.name, objective, teacher)
        if isinstance(student, LazyLogits) and any(p.requires_grad for p in objective.parameters()):
            raise ValueError(
                f"term {draft.name!r}: over LazyLogits an objective gets no gradient for parameters of its own, and "
                f"{type(objective).__name__} trains some; let the student answer with whole logits"
            )
        if draft.right is not None and (fits := getattr(sources[draft.right.source], "fits", None)):
            fits(draft.name, objective, draft.right.taps)
        if handed is not None:
            _hand_over(term, objective, handed)
        if objective.scope == "batch" and data.batch_size < 2:
            raise ValueError(
                f"term {draft.name!r} relates the samples of a batch to each other and cannot work with a batch of "
                f"{data.batch_size}; use a batch size of at least 2"
            )
        if "index" in objective.needs and not data.indexed:
            raise ValueError(
                f"term {draft.name!r} keeps something for each sample and needs its index, which your loader does not "
                "give; let it yield (input, label, index), or give the data set instead of a loader"
            )
        if "label" in objective.needs and batch.views[draft.view].label is None:
            raise ValueError(f"term {draft.name!r} needs labels, and the data has none; leave it out (ce:0 for ce)")
        built.append(Wired(draft.name, objective, draft.left, draft.right, term.weight))
    return built


def _draft(term: Term, number: int, terms: Sequence[Term], sources: Mapping[str, Source], batch: Batch) -> Wired:
    earlier = [other.label for other in terms[:number]]
    name = term.label if term.label not in earlier else f"{term.label}_{earlier.count(term.label) + 1}"
    sides = []
    for address in term.addresses:
        if address is None:
            sides.append(None)
            continue
        if address.source not in sources:
            raise ValueError(f"term {name!r}: no source {address.source!r}; {did_you_mean(address.source, sources)}")
        if address.view not in batch.views:
            wanted = f": it reads {wants}" if (wants := term.kind.wants) else ""
            known = did_you_mean(address.view, batch.views)
            raise ValueError(f"term {name!r}: no view {address.view!r}{wanted}; {known}")
        expand = getattr(sources[address.source], "expand", None)
        sides.append(replace(address, taps=expand(address.taps)) if expand else address)
    if sides[0] is not None and not sources[sides[0].source].trained:
        raise ValueError(
            f"term {name!r}: the left address {sides[0].source!r} is not trained, so the term would teach nobody"
        )
    left, right = _level(name, term, sides[0], sides[1])
    _check_modules(name, term, right, sources)
    for side in (left, right):
        if side is not None:
            _check_provided(name, side, sources[side.source])
    return Wired(name, _Nothing(), left, right, term.weight)


def _level(name: str, term: Term, left: Address | None, right: Address | None) -> tuple[Address | None, Address | None]:
    """As many stages on both sides, the deepest, where both addresses leave it to the probe which stages there are."""
    asked = [side is not None and bool({"stages", "stages.pre"} & {*side.taps}) for side in term.addresses]
    if left is None or right is None or not all(asked) or not term.kind.paired:
        return left, right
    stages = [[tap for tap in side.taps if stages_of([tap.removesuffix(".pre")])] for side in (left, right)]
    fewest = min(map(len, stages))
    found = []
    for side, taps in zip((left, right), stages, strict=True):
        spare, kept = taps[: len(taps) - fewest], taps[len(taps) - fewest :]
        if spare:
            warnings.warn(
                f"{name}: {side.source} has {len(taps)} stages and the other side {fewest}, so its deepest are taken: "
                f"{', '.join(kept)} (a potstill.Term can name others)",
                stacklevel=2,
            )
        found.append(replace(side, taps=tuple(tap for tap in side.taps if tap not in spare)))
    return found[0], found[1]


def _check_provided(name: str, address: Address, source: Source) -> None:
    provided = source.provides
    missing = [tap for tap in address.taps if provided is not None and tap != "output" and tap not in provided]
    if missing:
        raise ValueError(
            f"term {name!r}: source {address.source!r} does not give tap {missing[0]!r}; "
            + did_you_mean(missing[0], provided or ())
        )


def _check_modules(name: str, term: Term, right: Address | None, sources: Mapping[str, Source]) -> None:
    if right is None or isinstance(term.objective, Objective) or not term.kind.needs_modules:
        return
    if sources[right.source].module is None:
        raise ValueError(
            f"term {name!r} is built from modules of {right.source!r} (its classifier, its batch norms), "
            "and what stands in for that one (a cache) has none; use the live network"
        )


def _listen(system: System, drafts: list[Wired], batch: Batch) -> SourceOutputs:
    probing = System(system.task, system.sources, drafts)
    modules = torch.nn.ModuleList([s.module for s in system.sources.values() if s.module is not None])
    with torch.no_grad(), untouched(modules):
        said = probing.listen(batch, probing.wanted, key=0)
        answers = [(name, view.output) for name, views in said.items() for view in views.values()]
        parts = [(name, type(one).__name__) for name, one in answers if isinstance(one, LazyLogits | TopLogits)]
        if parts and system.task.combine_scope == "batch":
            raise ValueError(
                f"{type(system.task).__name__} relates the samples of a batch and needs whole answers, and source "
                f"{parts[0][0]!r} answers with {parts[0][1]}; let it answer with whole logits (`LazyLogits.dense()`)"
            )
        return system.task.combine(said, batch)


def _build(
    term: Term,
    draft: Wired,
    student: Side | None,
    teacher: Side | None,
    data: DataInfo,
    sources: Mapping[str, Source],
    seed: int,
) -> Objective:
    if isinstance(term.objective, Objective):
        return term.objective
    spec = term.objective if isinstance(term.objective, Spec) else Spec.of(term.objective)
    module = sources[draft.right.source].module if draft.right else None
    modules = {} if module is None else dict(module.named_modules())
    with torch.random.fork_rng(devices=[]):
        # Every objective starts from its own seed: adding a term leaves the others' initial weights alone.
        torch.manual_seed(hash_int(seed, "objective", draft.name))
        return spec.target.sized(student, teacher, data, modules, **dict(spec.kwargs))


def _hand_over(term: Term, objective: Objective, handed: Mapping[str, Weights]) -> None:
    """Load what earlier stages have learnt into the submodules that the term's `init` names."""
    for own, origin in term.init:
        name, _, path = origin.partition(".")
        prefix = f"{path}." if path else ""
        found = {k.removeprefix(prefix): v for k, v in handed.get(name, {}).items() if k.startswith(prefix)}
        if not found:
            raise ValueError(
                f"term {term.label!r}: no earlier stage has learnt {origin!r}; {did_you_mean(name, handed)}"
            )
        try:
            objective.get_submodule(own).load_state_dict(found)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"term {term.label!r}: {origin!r} does not fit {own!r}: {error}") from None


def _check_lazy(name: str, term: Term, student: Side | None, teacher: Side | None) -> None:
    """Logits that never exist whole are for losses that read one row at a time."""
    kind = term.objective if isinstance(term.objective, Objective) else term.kind
    for side, value in (("student", student), ("teacher", teacher)):
        if not any(isinstance(one, LazyLogits) for one in _each(value)):
            continue
        if not kind.lazy or kind.scope == "batch" or isinstance(value, tuple):
            raise ValueError(
                f"term {name!r}: {term.kind.__name__} reads whole logits, and the {side} answers with LazyLogits, "
                "made a few tokens at a time; take an objective with `lazy = True` (ce, kd, forward_kl, jsd …), or "
                "let the network answer with `LazyLogits.dense()`"
            )


def _check_top(name: str, term: Term, student: Side | None, teacher: Side | None) -> None:
    """A part of the logits is for losses that can do with it, and only a teacher may answer so."""
    if any(isinstance(one, TopLogits) for one in _each(student)):
        raise ValueError(f"term {name!r}: the student answers with TopLogits, which carry no gradient to its network")
    known = [one.log_probs.shape[-1] for one in _each(teacher) if isinstance(one, TopLogits)]
    kind = term.objective if isinstance(term.objective, Objective) else term.kind
    if known and (not kind.takes_top or kind.scope == "batch" or isinstance(teacher, tuple)):
        raise ValueError(
            f"term {name!r}: {term.kind.__name__} reads all of the teacher's logits, and of this teacher only the "
            f"{known[0]} most probable tokens are known (TopLogits); take an objective with `takes_top = True` (kd, "
            "forward_kl, jsd, akl …), or a teacher that answers with all of them"
        )


def _check_temperature(name: str, objective: Objective, teacher: TopLogits) -> None:
    own = getattr(objective, "temperature", teacher.temperature)
    if own != teacher.temperature:
        raise ValueError(
            f"term {name!r} has temperature {own:g}, and the teacher's TopLogits are known at temperature "
            f"{teacher.temperature:g}, where the mass of the other tokens is; ask the teacher at {own:g}, or set the "
            f"temperature of {name} to {teacher.temperature:g}"
        )


def _each(side: Side | None) -> tuple[Answer, ...]:
    return () if side is None else side if isinstance(side, tuple) else (side,)


def _check_finite(name: str, source: str, teacher: Side | None) -> None:
    for answer in _each(teacher):
        if isinstance(answer, TopLogits):
            try:
                answer.check()
            except ValueError as error:
                raise ValueError(f"term {name!r}: source {source!r} gives no distribution. {error}") from None
            continue
        value = answer.cast().rows(slice(0, 64)) if isinstance(answer, LazyLogits) else answer
        if not value.isfinite().all():
            raise ValueError(
                f"term {name!r}: source {source!r} answers with NaN or infinity on real inputs; "
                "check its weights and its preprocessing (a bf16 or float16 overflow, a wrong checkpoint)"
            )


class _Nothing(Objective):
    """Stands in while addresses are resolved and nothing is built yet."""

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        return cls()

    def forward(self, student, teacher):
        raise AssertionError("a draft is never run")
