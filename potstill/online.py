"""A frozen teacher with small modules of its own that are trained while the student is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from potstill.lora import LowRank
from potstill.sources import Network, Shuffled
from potstill.types import Batch, LazyLogits, Outputs, Source, Task


class Additions(nn.Module):
    """Modules by the path of what they stand behind: each makes another answer of a place's first input and its answer.

    `module(x, y) -> y`: a low-rank addition, an adapter `y + up(act(down(y)))`, or anything else that leaves the answer
    alone before the first step.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        super().__init__()
        if not modules:
            raise ValueError("an online teacher needs at least one module to train")
        self.inner = nn.ModuleDict({path.replace(".", "/"): module for path, module in modules.items()})

    @property
    def places(self) -> dict[str, nn.Module]:
        return {name.replace("/", "."): module for name, module in self.inner.items()}


class Online:
    """The source of a teacher whose additions are trained; the teacher itself is not changed and not even touched.

    The additions act inside this source's calls only, as hooks: another source of the same network (the frozen
    `teacher`) goes on saying what it always said. `module` is the additions alone, so the optimizer, the ranks and the
    checkpoint see nothing else, and the teacher's weights get no gradient. They are trained apart from the student:
    with `rate` times its learning rate, and with a gradient that is clipped by itself.

    It runs in evaluation mode, uncompiled. Over `LazyLogits` an addition to the head lengthens the hidden states by its
    rank.

    Raises ValueError for a teacher without a live network, for a place that does not exist, and where nothing that was
    added to ran.
    """

    trained = True

    def __init__(self, base: Source, additions: Additions, rate: float = 1.0):
        live = network_of(base)
        self.base, self.additions, self.rate = live, additions, rate
        modules = dict(live.module.named_modules())
        self._places = {path: (modules[path], added) for path, added in additions.places.items()}
        self._speaker: Source = Network(
            live.module,
            trained=True,
            preprocess=live.preprocess,
            names=live.names,
            precision=replace(live.precision, compiled=False),
        )

    @property
    def module(self) -> nn.Module:
        return self.additions

    @property
    def provides(self) -> None:
        return None

    @property
    def fingerprint(self) -> str:
        return f"online:{self.base.fingerprint}"

    @property
    def share(self) -> float:
        """How many parameters are trained, of all."""
        added, frozen = (sum(p.numel() for p in one.parameters()) for one in (self.additions, self.base.module))
        return added / (added + frozen)

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        return self.base.expand(taps)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        with constant(self.base.module), self._added() as ran:
            said = self._speaker(task, batch, view, taps)
        if isinstance(said.output, LazyLogits):
            said = replace(said, output=self._lazy(said.output, ran))
        if not ran:
            raise ValueError(
                f"{type(self.base.module).__name__} ran without calling {', '.join(self._places)}, so nothing could "
                "be added there; choose another place"
            )
        return said

    def _lazy(self, answer: LazyLogits, ran: set[str]) -> LazyLogits:
        """The same without gradient for the teacher's head, and with what is added to it: $(W, B) (h, A h)$."""
        hidden, bias = answer.hidden, None if answer.bias is None else answer.bias.detach()
        weight = answer.weight.detach()
        for path, (layer, added) in self._places.items():
            if path not in ran and isinstance(added, LowRank) and _same(answer.weight, layer.weight):
                ran.add(path)
                inner = added.inner(hidden).to(hidden.dtype)
                weight = torch.cat([weight, added.up[: len(weight)].to(weight.dtype)], 1)
                return LazyLogits(torch.cat([hidden, inner], -1), weight, bias)
        return LazyLogits(hidden, weight, bias)

    @contextmanager
    def _added(self) -> Iterator[set[str]]:
        ran: set[str] = set()
        handles = []
        try:
            for path, (layer, added) in self._places.items():
                handles.append(layer.register_forward_hook(_behind(path, added, ran)))
            yield ran
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without gradient; evaluation mode is all it has."""
        with torch.no_grad():
            yield

    def with_module(self, module: nn.Module) -> Online:
        """The same teacher with other additions."""
        assert isinstance(module, Additions)
        made = Online(self.base, module, self.rate)
        return made.shuffled() if isinstance(self._speaker, Shuffled) else made

    def shuffled(self) -> Online:
        """The control (see `Shuffled`): it speaks, and is taught, about another sample of the batch."""
        made = Online(self.base, self.additions, self.rate)
        made._speaker = Shuffled(made._speaker)
        return made


def network_of(source: Source) -> Network:
    """The live network behind a source that students may share. Raises ValueError where there is none."""
    found: Any = source
    while hasattr(found, "source"):
        found = found.source
    if not isinstance(found, Network):
        raise ValueError(
            f"modules can be trained inside a live teacher only, and {type(source).__name__} stands for one; use the "
            "network itself"
        )
    return found


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Gradients pass through a network and none is made for its parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _behind(path: str, added: nn.Module, ran: set[str]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Tensor:
        ran.add(path)
        return added(args[0], result)

    return hook


def _same(one: Any, other: Any) -> bool:
    """One weight, or its first rows: the task may leave out what fills a vocabulary up."""
    return (
        isinstance(other, Tensor)
        and one.untyped_storage()._cdata == other.untyped_storage()._cdata
        and (one.storage_offset(), one.stride(), one.shape[1:])
        == (other.storage_offset(), other.stride(), other.shape[1:])
    )
