"""One optimizer step: the same gradient for any split into micro-batches and ranks.

Terms whose loss is a sum over samples are summed and divided once by the global count. Terms that relate samples
(`scope="batch"`, or a task that combines over the batch) need all of them at once: a first pass without gradient
collects and gathers what they read, their gradient is taken there, and a second pass carries it into the networks
(gradient caching, Gao et al. 2021, arXiv:2101.06983). With one process and one micro-batch neither is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from potstill.hashing import hash_int
from potstill.ranks import Root, add_up, gather, gather_batch, join_outputs, rank, world_size
from potstill.taps import kept_buffers
from potstill.terms import Wired, plan, units
from potstill.types import (
    Apart,
    Batch,
    Outputs,
    Primes,
    Progress,
    Side,
    Source,
    SourceOutputs,
    Task,
    Updates,
)

Wanted = Mapping[tuple[str, str], tuple[str, ...]]
Sides = tuple[Side | None, Side | None]
T = TypeVar("T")


@dataclass
class Carried:
    """Gradients of the related terms, on their way into one micro-batch.

    `taps` has one gradient for each tensor of a trained source, `parameters` those of the objectives (given to the
    last micro-batch only), `given` what frozen sources already said in the first pass.
    """

    taps: list[tuple[str, str, str, Tensor]] = field(default_factory=list)
    parameters: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    given: SourceOutputs = field(default_factory=dict)


class System(nn.Module):
    """What the data-parallel wrapper holds: student, other trained sources, and terms with their objectives."""

    def __init__(self, task: Task, sources: Mapping[str, Source], terms: list[Wired], seed: int = 0):
        super().__init__()
        self.task, self.sources, self.seed = task, dict(sources), seed
        trained = {name: s.module for name, s in sources.items() if s.trained and s.module is not None}
        self.networks = nn.ModuleDict(trained)
        self.terms = nn.ModuleList(terms)
        self.wanted = self.from_networks(plan(terms))

    @property
    def apart(self) -> dict[str, float]:
        """Trained sources with an optimizer of their own: the rate of each, as a multiple of the run's."""
        return {name: source.rate for name in self.networks if isinstance(source := self.sources[name], Apart)}

    @property
    def clipped(self) -> list[list[nn.Parameter]]:
        """Whose gradients have one norm in common: those of all, but for each source that is trained apart."""
        alone = [list(self.networks[name].parameters()) for name in self.apart]
        known = {id(parameter) for group in alone for parameter in group}
        return [[p for p in self.parameters() if id(p) not in known], *alone]

    @property
    def wired(self) -> list[Wired]:
        """The terms, typed."""
        return cast(list[Wired], list(self.terms))

    def from_networks(self, wanted: Wanted) -> Wanted:
        """Replace views that `combine` makes by the views that it makes them from."""
        found: dict[tuple[str, str], tuple[str, ...]] = {}
        for (source, view), taps in wanted.items():
            for origin in self.task.derived.get(view, (view,)):
                before = found.get((source, origin), ())
                found[source, origin] = before + tuple(tap for tap in taps if tap not in before)
        # Frozen sources first: what they need on the way is free again before the student's activations pile up.
        return dict(sorted(found.items(), key=lambda item: self.sources[item[0][0]].trained))

    def related(self, term: Wired) -> bool:
        return term.objective.scope == "batch" or self.task.combine_scope == "batch"

    def listen(self, batch: Batch, wanted: Wanted, key: int, given: SourceOutputs | None = None) -> SourceOutputs:
        """Run every source on every view that a term addresses, except those whose answers are `given`."""
        said: SourceOutputs = {}
        for (source, view), taps in wanted.items():
            answer = (given or {}).get(source, {}).get(view)
            if answer is None:
                # Dropout is a function of what runs, not of what ran before: a resumed run and a second pass, in
                # which more is run than in the first, see the same.
                torch.manual_seed(hash_int(key, source, view))
                answer = self.sources[source](self.task, batch, view, taps)
            said.setdefault(source, {})[view] = answer
        return said

    def combined(self, said: SourceOutputs, batch: Batch, scope: str) -> SourceOutputs:
        return self.task.combine(said, batch) if self.task.combine_scope == scope else said

    def forward(
        self, batch: Batch, key: int, counts: Tensor, progress: Progress, scale: float, carried: Carried | None
    ) -> tuple[Tensor, Tensor, dict[int, Sides]]:
        """One micro-batch: (loss to differentiate, each term's share of its mean, sides of terms that update)."""
        said = self.listen(batch, self.wanted, key, carried.given if carried else None)
        outputs = self.combined(said, batch, "unit")
        if carried is None:
            outputs = self.combined(outputs, batch, "batch")
        loss = torch.zeros((), device=batch.main.index.device)
        shares = torch.zeros(len(self.terms), device=loss.device, dtype=torch.float64)
        remembered: dict[int, Sides] = {}
        for number, term in enumerate(self.wired):
            if carried is not None and self.related(term):
                continue
            mask = self.task.mask(batch, term.view)
            share = term(outputs, batch, mask, counts[number], progress, self.seed)
            loss = loss + (scale * term.weighted(progress)) * share
            shares[number] = share.detach()
            if isinstance(term.objective, Updates):
                student, teacher = term.sides(outputs)
                remembered[number] = (_detached(student), teacher)
        for source, view, tap, gradient in carried.taps if carried else ():
            loss = loss + scale * (cast(Tensor, outputs[source][view].get(tap)) * gradient).sum()
        for parameter, gradient in carried.parameters if carried else ():
            loss = loss + (parameter * gradient).sum()
        return loss, shares, remembered


class Stepper:
    """Gradients of one prepared batch, accumulated into `.grad`, and the objectives' updates.

    `wrapped` is the system, or its data-parallel wrapper; `micro_batch` the most rows that run at once on this rank.
    """

    def __init__(self, system: System, wrapped: nn.Module, micro_batch: int | None = None):
        self.system, self.wrapped, self.micro_batch = system, wrapped, micro_batch

    def __call__(self, batch: Batch, progress: Progress) -> Tensor:
        """Returns this rank's share of each term's unweighted mean over the global batch."""
        system, world = self.system, world_size()
        micro = batch.split(1 if self.micro_batch is None else -(-len(batch) // self.micro_batch))
        counts = self._counts(batch)
        related = [term for term in system.wired if system.related(term)]
        shares = torch.zeros(len(system.wired), device=counts.device, dtype=torch.float64)
        carried: list[Carried | None] = [None] * len(micro)
        joined: SourceOutputs = {}
        if related and (world > 1 or len(micro) > 1):
            said, joined = self._collect(batch, micro, related, progress)
            carried, shares, joined = self._differentiate(batch, micro, said, joined, counts, progress)
        remembered = []
        for number, (part, carry) in enumerate(zip(micro, carried, strict=True)):
            key = self._key(progress, number)
            with self._exchanging(number + 1 == len(micro)):
                loss, share, sides = self.wrapped(part, key, counts, progress, float(world), carry)
                loss.backward()
            shares = shares + share
            remembered.append(sides)
        self._update(batch, remembered, joined, progress)
        return shares

    def prime(self, batch: Batch, progress: Progress) -> None:
        """Show the first global batch to objectives that must see it before their first forward."""
        terms = [term for term in self.system.wired if isinstance(term.objective, Primes)]
        if terms:
            micro = batch.split(1 if self.micro_batch is None else -(-len(batch) // self.micro_batch))
            _, joined = self._collect(batch, micro, terms, progress)
            everyone = gather_batch(batch)
            joined = self.system.combined(joined, everyone, "batch")
            self._tell("prime", terms, [term.sides(joined) for term in terms], everyone, progress)

    def whole(self, act: Callable[..., T], *args: Any) -> T:
        """Call it where the networks' parameters are whole, sharded or not."""
        return self.wrapped(*args, act=act) if isinstance(self.wrapped, Root) else act(*args)

    def _counts(self, batch: Batch) -> Tensor:
        device = batch.main.index.device
        views = [(self.system.task.mask(batch, t.view), len(batch.views[t.view])) for t in self.system.wired]
        return add_up(torch.stack([units(mask, rows, device) for mask, rows in views]))

    def _key(self, progress: Progress, micro: int) -> int:
        """What the dropout of a micro-batch depends on."""
        return hash_int(self.system.seed, "dropout", progress.step, rank(), micro)

    def _exchanging(self, last: bool):
        """Ranks exchange gradients with the last micro-batch only."""
        wait = getattr(self.wrapped, "no_sync", None)
        return nullcontext() if wait is None or last else wait()

    def _collect(
        self, batch: Batch, micro: list[Batch], terms: list[Wired], progress: Progress
    ) -> tuple[list[SourceOutputs], SourceOutputs]:
        """First pass, without gradient: what each micro-batch's sources say, and all of it joined over ranks."""
        system = self.system
        wanted = system.from_networks(plan(terms))
        # Frozen sources are asked once for all that any term reads, so that the second pass need not run them.
        wanted = {key: taps if system.sources[key[0]].trained else system.wanted[key] for key, taps in wanted.items()}
        said = []
        with torch.no_grad(), kept_buffers(system.networks):
            for number, part in enumerate(micro):
                said.append(self.whole(system.listen, part, wanted, self._key(progress, number)))
        parts = [system.combined(s, m, "unit") for s, m in zip(said, micro, strict=True)]
        return said, join_outputs(parts)

    def _differentiate(
        self,
        batch: Batch,
        micro: list[Batch],
        said: list[SourceOutputs],
        joined: SourceOutputs,
        counts: Tensor,
        progress: Progress,
    ) -> tuple[list[Carried | None], Tensor, SourceOutputs]:
        """Gradients of the related terms at the joined tensors, cut back into this rank's micro-batches."""
        system, everyone = self.system, gather_batch(batch)
        leaves: list[tuple[str, str, str, Any]] = []
        for source in (name for name in joined if system.sources[name].trained):
            for view, outputs in joined[source].items():
                fresh = Outputs(_leaf(outputs.output), {tap: _leaf(value) for tap, value in outputs.taps.items()})
                joined[source][view] = fresh
                here = [(source, view, tap, fresh.get(tap)) for tap in ("output", *fresh.taps)]
                leaves += [leaf for leaf in here if isinstance(leaf[3], Tensor)]
        joined = system.combined(joined, everyone, "batch")
        loss = torch.zeros((), device=counts.device)
        shares = torch.zeros(len(system.wired), device=counts.device, dtype=torch.float64)
        related = {number: term for number, term in enumerate(system.wired) if system.related(term)}
        for number, term in related.items():
            mask = system.task.mask(everyone, term.view)
            share = term(joined, everyone, mask, counts[number], progress, system.seed)
            loss = loss + term.weighted(progress) * share
            shares[number] = share.detach() / world_size()  # every rank computes the whole
        # Through a list of modules, so that an objective that two terms share is counted once.
        parameters = [p for p in nn.ModuleList(related.values()).parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, [leaf[3] for leaf in leaves] + parameters, allow_unused=True)
        frozen = [{name: v for name, v in s.items() if not system.sources[name].trained} for s in said]
        carried = [Carried(given=given) for given in frozen]
        edges = [len(part) for part in micro]
        for (source, view, tap, _), gradient in zip(leaves, gradients, strict=False):
            if gradient is not None:
                mine = gradient.chunk(world_size())[rank()]
                sizes = [edge * len(mine) // sum(edges) for edge in edges]
                for carry, piece in zip(carried, mine.split(sizes), strict=True):
                    carry.taps.append((source, view, tap, piece))
        found = zip(parameters, gradients[len(leaves) :], strict=True)
        carried[-1].parameters = [(p, g) for p, g in found if g is not None]
        return list(carried), shares, joined

    def _update(
        self, batch: Batch, remembered: list[dict[int, Sides]], joined: SourceOutputs, progress: Progress
    ) -> None:
        """Let memory banks and queues see the whole global batch, in data order, before the weights move."""
        terms = {n: t for n, t in enumerate(self.system.wired) if isinstance(t.objective, Updates)}
        if not terms:
            return
        sides: list[Sides] = []
        for number, term in terms.items():
            if number in remembered[0]:
                pieces = [part[number] for part in remembered]
                sides.append((_gathered([piece[0] for piece in pieces]), _gathered([piece[1] for piece in pieces])))
            else:
                student, teacher = term.sides(joined)
                sides.append((_detached(student), teacher))
        self._tell("update", list(terms.values()), sides, gather_batch(batch), progress)

    def _tell(self, what: str, terms: list[Wired], sides: list[Sides], everyone: Batch, progress: Progress) -> None:
        with torch.no_grad():
            for term, (student, teacher) in zip(terms, sides, strict=True):
                mask = self.system.task.mask(everyone, term.view)
                extras = term.extras(everyone, mask, progress, self.system.seed)
                getattr(term.objective, what)(student, teacher, **extras)


def _leaf(value: Any) -> Any:
    """A tensor to differentiate at; `LazyLogits`, which no related term reads, merely without gradient."""
    fresh = value.detach()
    return fresh.requires_grad_(fresh.is_floating_point()) if isinstance(fresh, Tensor) else fresh


def _detached(value: Side | None) -> Side | None:
    if isinstance(value, tuple):
        return tuple(item.detach() for item in value)
    return None if value is None else value.detach()


def _gathered(pieces: list[Any]) -> Side | None:
    """One side of a term from all micro-batches and ranks."""
    if isinstance(pieces[0], tuple):
        return tuple(gather(torch.cat(column)) for column in zip(*pieces, strict=True))
    return None if pieces[0] is None else gather(torch.cat(pieces))
