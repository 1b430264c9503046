"""Several processes: gather what is related, once, with the right gradient."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from potstill.types import Batch, LazyLogits, Outputs, SourceOutputs, TopLogits


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(value: Tensor) -> Tensor:
    """Concatenate every rank's rows in rank order, which is data order. No gradient. All ranks hold equally many."""
    if world_size() == 1:
        return value
    if value.dtype == torch.bool:
        return gather(value.to(torch.uint8)).bool()
    value = value.contiguous()
    parts = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(parts, value)
    return torch.cat(parts)


def every_rank(value: Any) -> list[Any]:
    """What every rank holds, of any kind, in rank order; slow, for what is no tensor of equal shape."""
    found = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(found, value)
    return found


def add_up(value: Tensor) -> Tensor:
    """Sum over ranks."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def join_outputs(parts: list[SourceOutputs]) -> SourceOutputs:
    """Micro-batches put together again, and gathered over ranks."""

    def joined(read) -> Any:
        values = [read(part) for part in parts]
        if isinstance(values[0], LazyLogits):
            return replace(values[0], hidden=gather(torch.cat([value.hidden for value in values])))
        if isinstance(values[0], TopLogits):
            log_probs, indices = ([getattr(value, name) for value in values] for name in ("log_probs", "indices"))
            return replace(values[0], log_probs=gather(torch.cat(log_probs)), indices=gather(torch.cat(indices)))
        return gather(torch.cat(values))

    return {
        source: {
            view: Outputs(
                joined(lambda p, s=source, v=view: p[s][v].output),
                {tap: joined(lambda p, s=source, v=view, t=tap: p[s][v].taps[t]) for tap in outputs.taps},
            )
            for view, outputs in views.items()
        }
        for source, views in parts[0].items()
    }


def gather_batch(batch: Batch) -> Batch:
    """The global batch without its inputs: index, labels, masks and extras of every rank."""

    def every(value: Any) -> Any:
        return None if value is None else gather(value)

    return Batch(
        {
            name: replace(
                view,
                input=None,
                index=gather(view.index),
                label=every(view.label),
                mask=every(view.mask),
                # What is no tensor tells a source what to do with this rank's rows.
                extras={k: gather(v) for k, v in view.extras.items() if isinstance(v, Tensor)},
            )
            for name, view in batch.views.items()
        }
    )


def start(device: str | None) -> torch.device:
    """The device of this process; under torchrun also its place among the ranks (through Accelerate)."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Accelerator(cpu=name == "cpu").device
    return usable(name)


def usable(name: str) -> torch.device:
    """A device by its name. Raises ValueError where there is none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {error}") from None


class _Wrapped(nn.Module):
    """A system, and a parameter that no step uses: having none, PyTorch prints a warning on stderr."""

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system = system
        self.unused = nn.Parameter(next(system.parameters()).new_zeros(()))

    def forward(self, *args: Any) -> Any:
        return self.system(*args)


def wrap(system: nn.Module, device: torch.device) -> nn.Module:
    """Exchange gradients between ranks; the system itself where there is one process.

    Buffers are each rank's own. Parameters that a step does not use (a layer that no tap reads) get no gradient, as in
    one process.
    """
    if world_size() == 1:
        return system
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
    with warnings.catch_warnings():
        # PyTorch 2.13 renames the option; Accelerate knows only the old name.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[ddp]).prepare_model(_Wrapped(system))


class Root(nn.Module):
    """A system for a wrapper that makes parameters whole only while its forward runs (FSDP2)."""

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system = system

    def forward(self, *args: Any, act: Callable[..., Any] | None = None) -> Any:
        """The system's, or whatever else needs whole parameters. Raises ValueError for a network it cannot hold."""
        try:
            return (act or self.system)(*args)
        except RuntimeError as error:
            if "DTensor" not in str(error) and "PostBackward" not in str(error):
                raise
            raise ValueError(
                "fit.shard: this network reads a block's parameters outside of the block's own forward, or changes a "
                f"block's input in place; leave fit.shard out ({str(error).splitlines()[0]})"
            ) from error


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether it is true on any rank; all ranks must ask."""
    return bool(add_up(torch.tensor(int(flag), device=device))) if world_size() > 1 else flag


def wait() -> None:
    """Until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def agree(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def agree_on(tensors: Iterable[Tensor]) -> None:
    """Give rank 0's values to all."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.data, src=0)


def agree_on_buffers(module: nn.Module) -> None:
    """Running statistics of batch norm are each rank's own: rank 0's are the run's."""
    agree_on(module.buffers())
