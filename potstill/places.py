"""Where a network's usual taps are: what one forward shows of its maps, its tokens and its classifier.

Three kinds of activations are maps. `[B, C, H, W]` is one as it is. `[B, H, W, C]`, channels last, is known by a
LayerNorm or a Linear over its last dimension, and by having the shape of such a one; where C = H = W nothing can be
told and it counts as the first kind. Tokens `[B, N, D]` are the outputs of repeated blocks with a Linear over D. The
last two are named with `.map` behind the module path, which `Taps` reads as `[B, C, H, W]`.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

COMPARED = 8
"""Rows of the probe's batch on which maps are compared with the embedding."""
CLOSE, APART = 0.02, 0.1
"""How far the averages of `pooled_map` may be from the embedding, as a part of its largest entry, and of its spread."""
STAGES = 4
"""Blocks of equal size that become stages, evenly spaced."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
PREFIX = 16
"""Most class, distillation and register tokens in front of those of the patches."""

Size = tuple[int, int]


@dataclass
class Seen:
    """What one module gave in one call: an activation `[B, N, D]` or `[B, C, H, W]`."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]
    entered: tuple[int, ...] | None
    mean: Tensor | None
    place: tuple[int, int]
    last: bool = False
    lost: bool = False


class Watch:
    """Hooks for one forward: `record(path)` for every module, then `names(output)`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.linears: list[tuple[str, Tensor, Tensor]] = []
        self.runs: Counter[str] = Counter()
        self.first: set[tuple[int, ...]] = set()
        self.last: set[tuple[int, ...]] = set()
        self.image: Size | None = None
        self.begun = False
        self.alive: dict[int, tuple[weakref.ref[Tensor], int, Seen]] = {}

    def record(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            entered = args[0] if args and isinstance(args[0], Tensor) else None
            value = result[0] if isinstance(result, tuple | list) and result else result
            if entered is not None and entered.ndim == 4 and (self.image is None or _area(entered) > _area(self.image)):
                self.image = entered.shape[-2], entered.shape[-1]
            self.begun |= any(True for _ in module.parameters())  # before, inputs are only prepared
            self._note_changes()
            if path and isinstance(value, Tensor):
                self.runs[path] += 1
                if isinstance(module, nn.Linear):
                    self.linears.append((path, value if entered is None else entered, value))
                if value.is_floating_point() and value.ndim in (3, 4) and self.begun:
                    self._keep(path, module, entered, value, plain=value is result)

        return hook

    def _keep(self, path: str, module: nn.Module, entered: Tensor | None, value: Tensor, plain: bool) -> None:
        shape, came = tuple(value.shape), None if entered is None else tuple(entered.shape)
        over_last = _over_last(module, shape)
        if len(shape) == 4:
            if over_last:
                self.last |= {shape} if came is None else {shape, came}
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                self.first.add(shape)
        if value is entered and value._version:  # changed in place, perhaps: what came before is gone
            for earlier in self.seen:
                old = earlier.place
                earlier.lost |= old[0] == value.data_ptr() and old[1] < value._version and earlier.shape == shape
        inner = (1,) if len(shape) == 3 else (1, 2) if over_last else (2, 3)
        kind = torch.promote_types(value.dtype, torch.float32)
        mean = value[:COMPARED].mean(inner, dtype=kind) if plain or len(shape) == 3 else None
        place = value.data_ptr(), value._version
        self.seen.append(Seen(path, module, shape, came, mean, place, over_last, len(shape) == 4 and not plain))
        self.alive[id(self.seen[-1])] = weakref.ref(value), value._version, self.seen[-1]

    def _note_changes(self) -> None:
        """Tensors that live on and were changed in place, by an operation that is no module: their value is gone."""
        for key, (reference, version, one) in list(self.alive.items()):
            value = reference()
            if value is None or value._version != version:
                one.lost |= value is not None
                del self.alive[key]

    def names(self, output: Tensor, modules: dict[str, nn.Module]) -> dict[str, str]:
        """The usual taps, as far as they exist: `stem`, `stage1` …, `last_map`, `embedding`, `pooled_map`."""
        self._note_changes()
        batch = output.shape[0] if output.ndim else 0
        seen = [one for one in self.seen if one.shape[0] == batch]
        for one in seen:
            one.last |= len(one.shape) == 4 and one.shape in self.last and one.shape not in self.first
        maps = self._maps(seen)
        blocks = _blocks([one for one in seen if len(one.shape) == 3 and self.runs[one.path] == 1], modules)
        tokens = bool(blocks) and self.image is not None
        if tokens:
            order = {id(one): number for number, one in enumerate(seen)}
            roots = tuple(f"{block.path}." for block in blocks)
            outer = [one for one in maps if not one.path.startswith(roots)]
            tokens = all(order[id(one)] < order[id(blocks[-1])] for one in outer)  # they become maps again otherwise
            maps = outer if tokens else maps
        sizes = list(dict.fromkeys(_size(one) for one in reversed(maps)))
        chosen = _spaced(blocks) if tokens else _before_changes(maps)
        found = [(path, one) for path, one in ((self._path(one, sizes), one) for one in chosen) if path]
        names = {f"stage{number}": path for number, (path, _) in enumerate(found, start=1)}
        # There is no activation behind a block of tokens.
        before = [path if tokens else self._before_activation(one, seen) for path, one in found]
        names |= {f"stage{number}.pre": path for number, path in enumerate(before, start=1) if path}
        if found:
            names |= {"stem": next(filter(None, (self._path(one, sizes) for one in maps)), found[0][0])}
            names["last_map"] = found[-1][0]
        return names | self._classifier(seen, output, sizes)

    def _maps(self, seen: list[Seen]) -> list[Seen]:
        """Feature maps of more than a pixel that a tap can read. Inside a module that gives the shape that it was
        given, only those of its own size: others (attention over positions, say) are no stages."""
        kept = {one.path: one for one in seen if one.entered == one.shape}
        found = []
        for one in seen:
            if len(one.shape) == 4 and _area(_size(one)) > 1 and self.runs[one.path] == 1 and not one.lost:
                parts = one.path.split(".")
                around = (kept.get(".".join(parts[:end])) for end in range(1, len(parts)))
                if all(p is None or (len(p.shape) == 4 and _size(p) == _size(one)) for p in around):
                    found.append(one)
        return found

    def _before_activation(self, one: Seen, seen: list[Seen]) -> str:
        """The input of the activation that made this map, where one did; empty where a module's inside is not seen."""
        end = next(number for number, other in enumerate(seen) if other is one)
        same = takewhile(lambda other: other.place == one.place, seen[end::-1])  # itself, and the last modules in it
        *_, maker = same
        usable = isinstance(maker.module, ACTIVATIONS) and not getattr(maker.module, "inplace", False)
        return f"{maker.path}.input" if usable and self.runs[maker.path] == 1 and not one.last else ""

    def _path(self, one: Seen, sizes: list[Size]) -> str:
        """The tap that reads it as a map `[B, C, H, W]`; empty where its size is unknown."""
        if len(one.shape) == 4:
            return f"{one.path}.map" if one.last else one.path
        size = _grid(one.shape[1], sizes, self.image)
        return "" if size is None else f"{one.path}.map{size[0]}x{size[1]}"

    def _classifier(self, seen: list[Seen], output: Tensor, sizes: list[Size]) -> dict[str, str]:
        """`embedding`, the input of the last Linear whose result is the answer, and the map that it is the mean of."""
        for path, embedding, result in reversed(self.linears):
            if result is output or (result.data_ptr() == output.data_ptr() and result.numel() == output.numel()):
                found = {"embedding": f"{path}.input"}
                usable = [one for one in seen if self.runs[one.path] == 1 and not one.lost]
                pooled = next((one for one in reversed(usable) if self._pooled(one, embedding, sizes)), None)
                name = "" if pooled is None else self._path(pooled, sizes)
                return found | {"pooled_map": name} if name else found
        return {}

    def _pooled(self, one: Seen, embedding: Tensor, sizes: list[Size]) -> bool:
        """Its averages are the embedding, but for the rounding of bfloat16."""
        size = _size(one) if len(one.shape) == 4 else _grid(one.shape[1], sizes, self.image)
        if one.mean is None or size is None or self.image is None or embedding.ndim != 2 or len(embedding) < 2:
            return False
        if _area(size) == 1 or (len(one.shape) == 3 and _area(size) != one.shape[1]):
            return False
        wanted = embedding[:COMPARED].to(torch.promote_types(embedding.dtype, torch.float32))
        if one.mean.shape != wanted.shape:
            return False
        error = (one.mean - wanted).abs()
        close = error.max() <= CLOSE * wanted.abs().max()
        return bool(close and error.square().mean().sqrt() < APART * wanted.std())


def _over_last(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """It works over the last dimension: a Linear, or a LayerNorm that is none over the second."""
    if isinstance(module, nn.LayerNorm):
        if type(module).forward is nn.LayerNorm.forward:
            return True
        second = shape[1] == module.normalized_shape[0]
        other = "2d" in type(module).__name__ or getattr(module, "data_format", "") == "channels_first"
        return shape[-1] == module.normalized_shape[0] and not (second and other)
    return isinstance(module, nn.Linear)


def _blocks(seen: list[Seen], modules: dict[str, nn.Module]) -> list[Seen]:
    """The outermost blocks of tokens, in order: those of a class that is repeated in a list, or the last one alone."""
    able = [one for one in seen if _mixes(one.module, one.shape[2])]
    lists = nn.ModuleList | nn.Sequential
    listed = [one for one in able if isinstance(modules.get(one.path.rpartition(".")[0]), lists)]
    counts = Counter(type(one.module) for one in listed)
    repeated = _outermost([one for one in listed if counts[type(one.module)] > 1])
    return repeated or _outermost(able)[-1:]


def _mixes(module: nn.Module, width: int) -> bool:
    """A block of layers, one of which is a Linear from or to this width."""
    inner = (part for part in module.modules() if part is not module)
    return any(
        (isinstance(part, nn.Linear) and width in (part.in_features, part.out_features))
        or (isinstance(part, nn.MultiheadAttention) and part.embed_dim == width)
        for part in inner
    )


def _outermost(seen: list[Seen]) -> list[Seen]:
    paths = {one.path for one in seen}
    return [one for one in seen if not any(one.path.startswith(f"{path}.") for path in paths)]


def _spaced(blocks: list[Seen]) -> list[Seen]:
    """Blocks of one size, evenly spaced and with the last; where sizes change, the last before each change."""
    if len({block.shape for block in blocks}) > 1:
        return _before_changes(blocks)
    count = min(STAGES, len(blocks))
    return [blocks[-(-(number + 1) * len(blocks) // count) - 1] for number in range(count)]


def _before_changes(seen: Iterable[Seen]) -> list[Seen]:
    found: list[Seen] = []
    for one in seen:
        if found and _size(found[-1]) == _size(one):
            found[-1] = one
        else:
            found.append(one)
    return found


def _size(one: Seen) -> Size:
    if len(one.shape) == 3:
        return one.shape[1], 1
    return (one.shape[1], one.shape[2]) if one.last else (one.shape[2], one.shape[3])


def _area(of: Size | Tensor) -> int:
    height, width = of.shape[-2:] if isinstance(of, Tensor) else of
    return height * width


def _grid(tokens: int, sizes: list[Size], image: Size | None) -> Size | None:
    """Height and width of the patches behind at most `PREFIX` other tokens: those of a map, of the image in square
    patches, or a square.

    >>> _grid(17, [(4, 4), (8, 8)], None), _grid(26, [], (16, 24)), _grid(50, [], None), _grid(3, [], None)
    ((4, 4), (4, 6), (7, 7), None)
    """
    height, width = image or (0, 0)
    patches = [(height // p, width // p) for p in range(1, min(height, width) + 1) if height % p == width % p == 0]
    for candidates in (sizes, patches, [(isqrt(tokens), isqrt(tokens))]):
        fits = [size for size in candidates if 0 <= tokens - _area(size) <= PREFIX and tokens < 2 * _area(size)]
        fits = [size for size in fits if _area(size) > 1]
        if fits:
            return max(fits, key=_area)
    return None
