"""Where to look: read activations of any network by module path, without editing it.

    taps = Taps(model, {"hint": "layer2", "before": "layer2.1.relu.input"})
    outputs = taps(lambda: model(x))          # Outputs(output, {"hint": …, "before": …})

A path means that module's output; with `.input` appended, its first input. With `.map` behind that, tokens `[B, N, D]`
or a map `[B, H, W, D]` are read as `[B, D, H, W]`: `blocks.3.map` (a square), `blocks.3.map4x6`; with `.heads64`, a
width as heads of 64 numbers, `[B, N, h, 64]`; with `.part1of3`, the first third of a width. Hooks live only inside one
call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import did_you_mean
from potstill.places import Watch
from potstill.types import Answer, Outputs

_AS_MAP = re.compile(r"(?P<path>.+)\.map(?:(?P<height>\d+)x(?P<width>\d+))?")
_OF_WIDTH = re.compile(r"(?P<path>.+?)(?:\.part(?P<part>[1-9]\d*)of(?P<parts>[1-9]\d*))?(?:\.heads(?P<head>[1-9]\d*))?")


@dataclass(frozen=True)
class Point:
    """A module's output or first input, as it is or (`as_map`) laid out as a map `[B, C, H, W]` of this size.

    `part` is which of how many equal parts of the last dimension, `head` the size of the heads that it is cut into.
    """

    path: str
    of_input: bool = False
    as_map: bool = False
    size: tuple[int, int] | None = None
    part: tuple[int, int] | None = None
    head: int | None = None

    @classmethod
    def parse(cls, text: str, modules: Container[str]) -> Point | None:
        """None where there is no such module. A module that is called `map` or `input` is a module."""
        if not text or text in modules:
            return cls(text) if text else None
        match = _AS_MAP.fullmatch(text)
        if match:
            inner = cls.parse(match["path"], modules)
            size = None if match["height"] is None else (int(match["height"]), int(match["width"]))
            return None if inner is None or inner.as_map else replace(inner, as_map=True, size=size)
        match = _OF_WIDTH.fullmatch(text)
        if match and match["path"] != text:
            inner = cls.parse(match["path"], modules)
            part = None if match["part"] is None else (int(match["part"]), int(match["parts"]))
            head = None if match["head"] is None else int(match["head"])
            cut = inner is not None and (inner.as_map or inner.part or inner.head)
            return (
                None if inner is None or cut or (part and part[0] > part[1]) else replace(inner, part=part, head=head)
            )
        stem = text.removesuffix(".input")
        return cls(stem, of_input=True) if stem != text and stem in modules else None

    def read(self, name: str, args: tuple[Any, ...], result: Any) -> Tensor:
        """The tensor, from what a module was given and gave. Raises ValueError, for the tap `name`, if it is none."""
        value = args[0] if self.of_input and args else None if self.of_input else result
        if self.as_map and isinstance(value, tuple | list) and value:
            value = value[0]  # blocks that give their attention as well
        side = "input" if self.of_input else "output"
        if not isinstance(value, Tensor):
            raise ValueError(
                f"tap {name!r}: the {side} of module {self.path!r} is a {type(value).__name__}, expected one tensor; "
                "tap a submodule"
            )
        if not self.as_map:
            return self._of_width(name, value)
        found = as_map(value, self.size)
        if found is None:
            wanted = "x".join(map(str, self.size)) if self.size else "square"
            raise ValueError(
                f"tap {name!r}: the {side} of module {self.path!r} has shape {list(value.shape)}, expected tokens "
                f"[B, N, D] that end in those of a {wanted} map, or a map [B, H, W, C]"
            )
        return found

    def _of_width(self, name: str, value: Tensor) -> Tensor:
        width = value.shape[-1] if value.ndim else 0
        parts, head = self.part[1] if self.part else 1, self.head or 1
        if width % (parts * head):
            raise ValueError(
                f"tap {name!r}: module {self.path!r} gives {width} numbers a token, which are no {parts} equal part(s) "
                f"in heads of {head}"
            )
        if self.part:
            value = value.chunk(parts, -1)[self.part[0] - 1]
        return value.unflatten(-1, (-1, head)) if self.head else value


def as_map(value: Tensor, size: tuple[int, int] | None = None) -> Tensor | None:
    """Tokens `[B, N, D]` or a map `[B, H, W, D]` as a view `[B, D, H, W]`, or None.

    Tokens are those of `H * W` patches, row by row, behind any number of others; without `size` the largest square.

    >>> as_map(torch.ones(2, 17, 5)).shape, as_map(torch.ones(2, 7, 5), (2, 3)).shape
    (torch.Size([2, 5, 4, 4]), torch.Size([2, 5, 2, 3]))
    """
    if value.ndim == 4 and size in (None, value.shape[1:3]):
        return value.movedim(3, 1)
    height, width = size or ((isqrt(value.shape[1]),) * 2 if value.ndim == 3 else (0, 0))
    if value.ndim != 3 or not 0 < height * width <= value.shape[1]:
        return None
    return value[:, value.shape[1] - height * width :].mT.unflatten(2, (height, width))


class Taps:
    """Reads named activations during one forward call.

    `names` maps what a tap is called to a module path; `also` are further names that a message may suggest. Raises
    ValueError, naming the tap and near matches, for a path that does not exist; when called: for a tap that did not
    fire or fired more than once, that is no tensor, that was changed in place afterwards, or (`needs_gradient`), while
    gradients are on, that carries none.
    """

    def __init__(
        self, model: nn.Module, names: Mapping[str, str], also: Iterable[str] = (), needs_gradient: bool = True
    ):
        self.model, self.needs_gradient = model, needs_gradient
        modules = dict(model.named_modules())
        self.points: dict[str, Point] = {}
        for name, path in names.items():
            point = Point.parse(path, modules)
            if point is None:
                known = [*also, *(key for key in modules if key)]
                where = "" if name == path else f" (module path {path!r})"
                raise ValueError(
                    f"tap {name!r}{where}: {type(model).__name__} has no such module; "
                    + did_you_mean(path.removesuffix(".map").removesuffix(".input"), known)
                )
            self.points[name] = point

    def __call__(self, forward: Callable[[], Answer]) -> Outputs:
        seen: dict[str, list[tuple[Tensor, int | None]]] = {name: [] for name in self.points}
        handles = []
        try:
            for name, point in self.points.items():
                module = self.model.get_submodule(point.path)
                hook = module.register_forward_pre_hook if point.of_input else module.register_forward_hook
                handles.append(hook(_recorder(name, point, seen[name])))
            output = forward()
        finally:
            for handle in handles:
                handle.remove()
        return Outputs(output, {name: self._checked(name, fired) for name, fired in seen.items()})

    def _checked(self, name: str, fired: list[tuple[Tensor, int | None]]) -> Tensor:
        path = self.points[name].path
        if len(fired) != 1:
            happened = f"ran {len(fired)} times" if fired else "did not run"
            raise ValueError(
                f"tap {name!r}: module {path!r} {happened} in this forward; tap a module that runs exactly once"
            )
        tensor, version = fired[0]
        if version is not None and tensor._version != version:
            raise ValueError(
                f"tap {name!r}: the tensor of {path!r} was changed in place afterwards (an in-place activation, say), "
                "so its value is gone; tap the module after it, or build the network with inplace=False"
            )
        if self.needs_gradient and torch.is_grad_enabled() and not tensor.requires_grad:
            raise ValueError(
                f"tap {name!r}: the tensor of {path!r} carries no gradient; the network, or the part in front of the "
                "tap, is frozen or runs under no_grad"
            )
        return tensor


def _recorder(name: str, point: Point, into: list[tuple[Tensor, int | None]]) -> Callable[..., None]:
    def record(module: nn.Module, args: tuple[Any, ...], result: Any = None) -> None:
        value = point.read(name, args, result)
        # Compiled code has versions of its own making; the probe in front of a run looks at the real ones.
        into.append((value, None if torch.compiler.is_compiling() else value._version))

    return record


@dataclass(frozen=True)
class Probe:
    """What one look at a network found.

    `names` maps `embedding`, `last_map`, `pooled_map`, `stage1`, `stage2` … to module paths, as far as they exist; a
    network that names its own taps (attribute `taps`) keeps those. `output` is its answer on the probe's input.
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
    last feature maps before each change of size, `last_map` the last of them (1x1 maps left out); in a transformer,
    the outputs of up to four blocks, its tokens laid out as maps. `pooled_map` is the last map whose average over H
    and W is the embedding, by value; there may be none.
    """
    watch = Watch()
    handles = []
    with untouched(model), torch.no_grad():
        try:
            for path, module in model.named_modules():
                handles.append(module.register_forward_hook(watch.record(path)))
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
    found = watch.names(output, dict(model.named_modules()))
    if stages_of(own):  # guesses beside a network's own stages would number them twice
        found = {name: path for name, path in found.items() if not stages_of([name.removesuffix(".pre")])}
    return Probe(output, found | own)


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
