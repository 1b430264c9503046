"""Where to look: read activations of any network by module path, without editing it.

    taps = Taps(model, {"hint": "layer2", "before": "layer2.1.relu.input"})
    outputs = taps(lambda: model(x))          # Outputs(output, {"hint": …, "before": …})

A path means that module's output; with `.input` appended, its first input. Hooks live only inside one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import did_you_mean
from potstill.types import Outputs


class Taps:
    """Reads named activations during one forward call.

    `names` maps what a tap is called to a module path; `also` are further names that a message may suggest. Raises
    ValueError, naming the tap and near matches, for a path that does not exist; when called: for a tap that did not
    fire or fired more than once, that is no tensor, that was changed in place afterwards, or, while gradients are on
    and the network is trained, that carries no gradient.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str], also: Iterable[str] = ()):
        self.model = model
        modules = dict(model.named_modules())
        self.points: dict[str, tuple[str, bool]] = {}
        for name, path in names.items():
            stem, _, side = path.rpartition(".")
            if path in modules and path:
                self.points[name] = (path, False)
            elif side == "input" and stem in modules:
                self.points[name] = (stem, True)
            else:
                known = [*also, *(key for key in modules if key)]
                where = "" if name == path else f" (module path {path!r})"
                raise ValueError(
                    f"tap {name!r}{where}: {type(model).__name__} has no such module; "
                    + did_you_mean(path.removesuffix(".input"), known)
                )

    def __call__(self, forward: Callable[[], Tensor]) -> Outputs:
        seen: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in self.points}
        handles = []
        try:
            for name, (path, of_input) in self.points.items():
                record = _recorder(name, path, of_input, seen[name])
                module = self.model.get_submodule(path)
                hook = module.register_forward_pre_hook if of_input else module.register_forward_hook
                handles.append(hook(record))
            output = forward()
        finally:
            for handle in handles:
                handle.remove()
        return Outputs(output, {name: self._checked(name, fired) for name, fired in seen.items()})

    def _checked(self, name: str, fired: list[tuple[Tensor, int]]) -> Tensor:
        path = self.points[name][0]
        if len(fired) != 1:
            happened = f"ran {len(fired)} times" if fired else "did not run"
            raise ValueError(
                f"tap {name!r}: module {path!r} {happened} in this forward; tap a module that runs exactly once"
            )
        tensor, version = fired[0]
        if tensor._version != version:
            raise ValueError(
                f"tap {name!r}: the tensor of {path!r} was changed in place afterwards (an in-place activation, say), "
                "so its value is gone; tap the module after it, or build the network with inplace=False"
            )
        if torch.is_grad_enabled() and not tensor.requires_grad:
            raise ValueError(
                f"tap {name!r}: the tensor of {path!r} carries no gradient; the network, or the part in front of the "
                "tap, is frozen or runs under no_grad"
            )
        return tensor


def _recorder(name: str, path: str, of_input: bool, into: list[tuple[Tensor, int]]) -> Callable[..., None]:
    def record(module: nn.Module, args: tuple[Any, ...], *result: Any) -> None:
        value = args[0] if of_input and args else result[0] if result else None
        if not isinstance(value, Tensor):
            side = "input" if of_input else "output"
            raise ValueError(
                f"tap {name!r}: the {side} of module {path!r} is a {type(value).__name__}, expected one tensor; "
                "tap a submodule"
            )
        into.append((value, value._version))

    return record


@dataclass(frozen=True)
class Probe:
    """What one look at a network found.

    `names` maps `embedding`, `last_map`, `stage1`, `stage2` … to module paths, as far as they exist; a network that
    names its own taps (attribute `taps`) keeps those. `output` is its answer on the probe's input.
    """

    output: Tensor
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        return stages_of(self.names)


def stages_of(names: Iterable[str]) -> tuple[str, ...]:
    """`stage1`, `stage2` … among the names of taps, in the order of the network."""
    found = (name for name in names if name.startswith("stage") and name[5:].isdigit())
    return tuple(sorted(found, key=lambda name: int(name[5:])))


def probe(model: nn.Module, forward: Callable[[], Tensor]) -> Probe:
    """Run `forward` once in evaluation mode, find the usual taps, and leave the network bit-identical.

    `embedding` is the input of the last executed `nn.Linear` whose result is the answer. `stage1`, `stage2` … are the
    last feature maps `[B, C, H, W]` before each change of size, `last_map` the last of them (1x1 maps left out).
    """
    maps: list[tuple[str, tuple[int, ...]]] = []
    linears: list[tuple[str, Tensor]] = []
    handles = []

    def watch(path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, result: Any) -> None:
            if isinstance(result, Tensor) and result.ndim == 4 and result.shape[-2:].numel() > 1:
                maps.append((path, tuple(result.shape[-2:])))
            if isinstance(module, nn.Linear) and isinstance(result, Tensor):
                linears.append((path, result))

        return record

    with untouched(model), torch.no_grad():
        try:
            for path, module in model.named_modules():
                if path:
                    handles.append(module.register_forward_hook(watch(path)))
            output = forward()
        finally:
            for handle in handles:
                handle.remove()
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{type(model).__name__} answers with a {type(output).__name__}, expected a tensor; wrap it in a module "
            "that returns the logits"
        )
    own = dict(getattr(model, "taps", None) or {})
    found = _found(maps)
    if stages_of(own):  # guesses beside a network's own stages would number them twice
        found = {name: path for name, path in found.items() if not stages_of([name])}
    return Probe(output, found | _embedding(linears, output) | own)


def _found(maps: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, str]:
    stages: list[tuple[str, tuple[int, ...]]] = []
    for path, size in maps:
        if stages and stages[-1][1] == size:
            stages[-1] = (path, size)
        else:
            stages.append((path, size))
    names = {f"stage{number}": path for number, (path, _) in enumerate(stages, start=1)}
    if stages:
        names["last_map"] = stages[-1][0]
    return names


def _embedding(linears: list[tuple[str, Tensor]], output: Tensor) -> dict[str, str]:
    for path, result in reversed(linears):
        same = result is output or (result.data_ptr() == output.data_ptr() and result.numel() == output.numel())
        if same:
            return {"embedding": f"{path}.input"}
    return {}


@contextmanager
def untouched(model: nn.Module):
    """Run the network in evaluation mode and give it back as it was: modes, buffers and the random state."""
    modes = {module: module.training for module in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), kept_buffers(model):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@contextmanager
def kept_buffers(model: nn.Module):
    """Buffers (running statistics of batch norm) are afterwards what they were, changed in place or replaced."""
    places = [(module, *item) for module in model.modules() for item in module._buffers.items()]
    saved = [(*place, None if place[2] is None else place[2].clone()) for place in places]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in saved:
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    buffer.copy_(value)
