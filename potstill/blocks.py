"""Which parts of a network are sharded by themselves, and when their parameters may be freed (see `sharding.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from potstill.step import System
from potstill.terms import plan


def answers(system: System) -> bool:
    """Whether the losses read the answer of every trained network on every view.

    Then a gradient comes back into each block through its end, where FSDP2 gathers the block's parameters again; they
    may be freed after the forward. A loss that reads the middle of a block alone (a hint) comes in elsewhere: they are
    then kept from the forward to the backward.
    """
    read = {(term.left.source, term.left.view) for term in system.wired if term.left and "output" in term.left.taps}
    origins = {(s, origin) for s, view in read for origin in system.task.derived.get(view, (view,))}
    return all(key in origins for key in system.from_networks(plan(system.wired)) if system.sources[key[0]].trained)


def blocks(network: nn.Module, least: int, whole: Sequence[nn.Parameter] = ()) -> list[nn.Module]:
    """Parts that are gathered by themselves: the outermost repeated blocks, of at least so many parameters.

    A block is an element of a `ModuleList` or `Sequential` that is made of modules itself, and shares no parameter with
    the rest. A bare layer is none: a task may read its weight without calling it (the head of `LazyLogits`).

    >>> layer = nn.TransformerEncoderLayer(4, 2, 8)
    >>> len(blocks(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), 0))
    3
    """
    kept = {id(p) for p in whole}
    users: dict[int, set[nn.Module]] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(module)

    def alone(block: nn.Module) -> bool:
        inside = set(block.modules())
        own = [p for p in block.parameters() if id(p) not in kept]
        return sum(p.numel() for p in own) >= max(least, 1) and all(users[id(p)] <= inside for p in own)

    def found(module: nn.Module) -> Iterable[nn.Module]:
        series = isinstance(module, nn.ModuleList | nn.Sequential)
        for child in module.children():
            made = not isinstance(child, nn.ModuleList | nn.Sequential) and next(child.children(), None) is not None
            yield from [child] if series and made and alone(child) else found(child)

    return list(dict.fromkeys(found(network)))
