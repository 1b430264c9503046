"""Who holds the weights between two steps: every rank all of them, or each its part (FSDP2).

A sharded run trains a copy of the networks whose parameters, gradients and optimizer state are divided among the ranks.
The networks themselves stay as they are, for evaluation, checkpoints and export: `gather` brings them up to date. So a
checkpoint of a sharded run is that of any other, and a network is given back with its own class and plain tensors.

Objectives' parameters are not divided. They are small, and priming, memory banks and the loss of a whole batch read
them outside of the networks' forward. Their gradients are averaged once a step; so are those of scalar parameters,
which FSDP2 cannot divide.

Source: Zhao et al.: PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel. VLDB 2023. arXiv:2304.11277.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from potstill.blocks import answers, blocks
from potstill.precision import Precision, lay_out
from potstill.ranks import Root, add_up, agree_on, gather, world_size, wrap
from potstill.step import System
from potstill.terms import Wired
from potstill.types import Follows

GROUP = 2**20
"""Parameters (4 MiB in float32) from which a block of a network is gathered by itself, while the others compute."""


class Held(Protocol):
    """What the engine trains through."""

    system: System
    wrapped: nn.Module

    def exchange(self) -> None:
        """Average those gradients over ranks that the wrapper does not."""

    def clip(self, limit: float) -> None:
        """Scale the whole gradient to at most this norm."""

    def follow(self) -> None:
        """Move the averaged weights after a step."""

    def gather(self) -> None:
        """Bring the networks outside up to date; all ranks must ask."""

    def shown(self, wanted: bool = True) -> AbstractContextManager[None]:
        """The same, and on the device for so long, if that is wanted."""

    def adopt(self) -> None:
        """Go on from the networks outside."""

    def release(self) -> None:
        """The end: gather, and leave the networks on the device."""

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer's state, whole; all ranks must ask."""

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take a whole state."""


def held(system: System, average: AveragedModel | None, device: torch.device, shard: bool) -> Held:
    """Every rank holds all weights, or (`shard`, with several ranks) its part."""
    return Sharded(system, average, device) if shard and world_size() > 1 else Whole(system, average, device)


class Whole:
    """Every rank holds all weights: one process, or DDP."""

    def __init__(self, system: System, average: AveragedModel | None, device: torch.device):
        self.system, self.average = system, average
        self.wrapped: nn.Module = wrap(system, device)

    def exchange(self) -> None:
        pass

    def clip(self, limit: float) -> None:
        for group in self.system.clipped:
            nn.utils.clip_grad_norm_(group, limit)

    def follow(self) -> None:
        if self.average is not None:
            self.average.update_parameters(self.system.networks["student"])

    def gather(self) -> None:
        pass

    def shown(self, wanted: bool = True) -> AbstractContextManager[None]:
        return nullcontext()

    def adopt(self) -> None:
        pass

    def release(self) -> None:
        pass

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        optimizer.load_state_dict(state)


class Sharded:
    """Each rank holds its part. `outside` are the plain system and its averaged network, on the host while training."""

    def __init__(self, outside: System, average: AveragedModel | None, device: torch.device, least: int | None = None):
        self.outside, self.average, self.device = outside, average, device
        self.homes = [outside, *([] if average is None else [average.module])]
        agree_on(chain(outside.parameters(), outside.buffers()))
        for home in self.homes:
            home.to("cpu")
        networks, terms = copy.deepcopy((outside.networks, outside.terms))
        sources = {name: _over(name, source, networks) for name, source in outside.sources.items()}
        self.system = System(outside.task, sources, cast(list[Wired], list(terms)), outside.seed)
        lay_out(networks, torch.contiguous_format)  # FSDP2 cuts rows of contiguous tensors
        self.whole = list(dict.fromkeys(chain(terms.parameters(), (p for p in networks.parameters() if p.ndim == 0))))
        terms.to(device)
        for value in chain(self.whole, networks.buffers()):
            value.data = value.data.to(device)
        self.wrapped: nn.Module = self._divided(GROUP if least is None else least)
        self.shadow = [] if average is None else [_part(p, q) for p, q in self._averaged(average)]

    def _divided(self, least: int) -> nn.Module:
        """The root, in which the networks' parameters are whole; blocks are whole while they run."""
        mesh = init_device_mesh(self.device.type, (world_size(),))
        options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(self.whole)}
        free = answers(self.system)
        for network in self.system.networks.values():
            for block in blocks(network, least, self.whole):
                fully_shard(block, reshard_after_forward=free, **options)
        root = Root(self.system)
        fully_shard(root, **options)
        if self.device.type == "cpu":
            cast(Any, root).set_force_sum_reduction_for_comms(True)  # gloo has no average
        return root

    def _averaged(self, average: AveragedModel) -> Iterator[tuple[Tensor, Tensor]]:
        student = self.system.networks["student"]
        return zip(average.module.parameters(), student.parameters(), strict=True)

    def exchange(self) -> None:
        gradients = [p.grad for p in self.whole if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            some = [g for g in gradients if g.dtype == dtype]
            total = add_up(torch.cat([g.flatten() for g in some])).div_(world_size())
            for gradient, mean in zip(some, total.split([g.numel() for g in some]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def clip(self, limit: float) -> None:
        """As `torch.nn.utils.clip_grad_norm_` over all ranks' parts, each counted once."""
        for group in self.system.clipped:
            gradients = [p.grad for p in group if p.grad is not None]
            parts = [_local(g) for g in gradients if isinstance(g, DTensor)]
            whole = [g for g in gradients if not isinstance(g, DTensor)]
            squares = add_up(nn.utils.get_total_norm(parts).to(self.device).square())
            norm = (squares + nn.utils.get_total_norm(whole).to(self.device).square()).sqrt()
            torch._foreach_mul_([*parts, *whole], (limit / (norm + 1e-6)).clamp(max=1.0))

    def follow(self) -> None:
        if self.average is None:
            return
        now = [_local(p.detach()) for p in self.system.networks["student"].parameters()]
        if self.average.n_averaged == 0:
            torch._foreach_copy_(self.shadow, now)
        else:
            assert self.average.multi_avg_fn is not None
            self.average.multi_avg_fn(self.shadow, now, self.average.n_averaged)
        self.average.n_averaged += 1

    @torch.no_grad()
    def gather(self) -> None:
        for mine, theirs in zip(self.outside.parameters(), self.system.parameters(), strict=True):
            mine.copy_(full(theirs))
        for mine, theirs in zip(self.outside.buffers(), self.system.buffers(), strict=True):
            mine.copy_(theirs)
        if self.average is not None:
            for (mine, like), part in zip(self._averaged(self.average), self.shadow, strict=True):
                mine.copy_(full(_as(part, like)))

    @contextmanager
    def shown(self, wanted: bool = True) -> Iterator[None]:
        if not wanted:
            yield
            return
        self.release()
        try:
            yield
        finally:
            for home in self.homes:
                home.to("cpu")

    @torch.no_grad()
    def adopt(self) -> None:
        for mine, theirs in zip(self.system.parameters(), self.outside.parameters(), strict=True):
            _local(mine.detach()).copy_(_part(theirs, mine))

    def release(self) -> None:
        self.gather()
        for home in self.homes:
            home.to(self.device)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        found = optimizer.state_dict()
        whole = {
            number: {name: full(value).cpu() if isinstance(value, DTensor) else value for name, value in one.items()}
            for number, one in found["state"].items()
        }
        return found | {"state": whole}

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        parts = {
            number: {name: _divided_like(value, parameters[number]) for name, value in one.items()}
            for number, one in state["state"].items()
        }
        optimizer.load_state_dict(state | {"state": parts})


def _over(name: str, source: Any, networks: nn.ModuleDict) -> Any:
    """The same source with the copied network; frozen ones stay."""
    if name not in networks:
        speaker = source
        while hasattr(speaker, "source"):  # what it says is passed on by another (`Heard`, `Shuffled`)
            speaker = speaker.source
        if isinstance(speaker, Follows):
            raise ValueError(
                f"fit.shard: the source {name!r} ({type(speaker).__name__}) follows the student's whole weights after "
                "every step, and no rank has them; leave fit.shard out"
            )
        return source
    move: Callable[[nn.Module], Any] | None = getattr(source, "with_module", None)
    if move is None:
        raise ValueError(
            f"fit.shard: the trained source {name!r} ({type(source).__name__}) cannot be given other weights "
            "(with_module), which its sharded copy needs; leave fit.shard out"
        )
    if getattr(source, "precision", Precision()).compiled:
        raise ValueError(
            f"fit.shard: the source {name!r} runs compiled, which was not tried with a sharded network; leave "
            "fit.shard out, or name a precision without -compile"
        )
    return move(networks[name])


def _local(value: Tensor) -> Tensor:
    """This rank's part, the memory itself."""
    return value.to_local() if isinstance(value, DTensor) else value


def full(value: Tensor) -> Tensor:
    """The whole tensor; all ranks must ask.

    Not `DTensor.full_tensor`: with gloo its collective, which runs beside Python, crashed now and then (torch 2.13).
    """
    if not isinstance(value, DTensor):
        return value
    part = value.to_local()
    rows = part.new_zeros(-(-len(value) // world_size()), *part.shape[1:])  # the last parts may be shorter
    rows[: len(part)] = part
    return gather(rows)[: len(value)]


def _divided_like(value: Any, like: Tensor) -> Any:
    """Divided as the parameter is, where it has the parameter's shape."""
    fits = isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape
    return (
        distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
        if fits
        else value
    )


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, in memory of its own."""
    return _local(_divided_like(value.detach(), like)).to(like.device, copy=True)


def _as(part: Tensor, like: Tensor) -> Tensor:
    """A part, with what is known of the whole."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
