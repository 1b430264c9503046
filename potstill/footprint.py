"""How much memory a step will need, without taking it: the step runs on fake tensors, which have shapes and no values.

Every operation of a step is dispatched, so what autograd keeps, what the backward pass makes and what a term holds
on the way is counted as it comes and goes. What lies inside one kernel is not dispatched: for convolutions on a CPU,
where it matters, `kernel_bytes` knows what oneDNN copies. On a GPU cuDNN's workspaces are left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from potstill.engine import Engine
from potstill.sources import Network
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, LiveSource, Outputs, Source, Task, View

aten = torch.ops.aten


@dataclass(frozen=True)
class Footprint:
    """Bytes of live tensors on the device. `step` and `evaluation` are the peaks on top of what always lies there.

    `weights` are those of student, teacher and objectives with their buffers, and of the average if there is one;
    `data` the images, and a cache's answers for one view.
    """

    data: int
    weights: int
    optimizer: int
    step: int
    evaluation: int

    @property
    def peak(self) -> int:
        return self.data + self.weights + self.optimizer + max(self.step, self.evaluation)

    def mib(self) -> dict[str, float]:
        """Everything in MiB, for a table."""
        values = {name: getattr(self, name) for name in ("data", "weights", "optimizer", "step", "evaluation", "peak")}
        return {name: round(value / 2**20, 2) for name, value in values.items()}


def footprint(engine: Engine, batch: Batch, evaluated: View | None = None, data: int = 0) -> Footprint:
    """Two steps of an engine on a batch like `batch`, and the evaluation of a batch like `evaluated`.

    The engine and its sources are throw-away copies: their tensors are replaced by fake ones, and nothing can be
    computed with them afterwards. `data` are the bytes of what lies on the device anyway.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    teacher = engine.sources.get("teacher")
    if teacher is not None and teacher.module is None:
        # A cache cannot be asked about fake samples, but what it says has a known shape.
        engine.sources["teacher"] = engine.system.sources["teacher"] = _Said(teacher, engine)
    modules = [engine.system, *(source.module for source in engine.sources.values() if source.module is not None)]
    for module in modules:
        _empty(fake, module)
    average = 0 if engine.average is None else sum(map(_bytes, engine.average.module.state_dict().values()))
    engine.average = None  # it counts its updates in a tensor, and asks for the value
    with fake:
        engine.sums, engine.finite = (torch.zeros_like(engine.sums) for _ in range(2))
    live = Live()
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            live.hold(tensor)
    weights = live.now
    seen = _faked(fake, batch)
    for tensor in tree_leaves([vars(view) for view in seen.views.values()]):
        if isinstance(tensor, Tensor):
            live.hold(tensor)
    with torch.random.fork_rng(), fake, live:
        engine.begin()
        engine.train_on(seen)
        optimizer = sum(_bytes(t) for t in tree_leaves(list(engine.optimizer.state.values())) if isinstance(t, Tensor))
        engine.train_on(seen)
        trained, live.peak = live.peak, live.now
        if evaluated is not None:
            _evaluate(fake, engine.evaluated, evaluated)
    always = weights + optimizer
    return Footprint(data, weights + average, optimizer, trained - always, live.peak - always)


def examination(teacher: Network, evaluated: View, data: int = 0) -> Footprint:
    """The evaluation of a network that is not trained, on a batch like `evaluated`; it is a throw-away copy."""
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), Live()
    _empty(fake, teacher.module)
    for tensor in (*teacher.module.parameters(), *teacher.module.buffers()):
        live.hold(tensor)
    weights = live.now
    with fake, live:
        _evaluate(fake, teacher, evaluated)
    return Footprint(data, weights, 0, 0, live.peak - weights)


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, `now` and at the `peak`, from one operation to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            size = storage.nbytes()
            self._seen[storage] = True
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.now
        result = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, before + kernel_bytes(func, args, result))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.hold(tensor)
        return result


def kernel_bytes(func: Any, args: Sequence[Any], result: Any) -> int:
    """Most bytes that one kernel holds at once beside its arguments, results included, as far as it is known.

    A convolution of oneDNN copies what is not channels-last into blocks of channels and back: forward the input and the
    answer, backward the outer gradient with the gradient it makes, then with the input. Without oneDNN (float64) the
    input is unfolded, a column for each weight of a filter.
    """
    if func not in (aten.convolution.default, aten.convolution_backward.default) or result is None:
        return 0
    backward = func is aten.convolution_backward.default
    outer, value, weight = args[:3] if backward else (result, *args[:2])
    if value.device.type != "cpu":
        return 0
    groups = args[9] if backward else args[8]
    if value.dtype == torch.float64 or not torch.backends.mkldnn.is_available():
        unfolded = (
            0 if weight.shape[2:].numel() == 1 else outer.shape[0] * prod(outer.shape[2:]) * prod(weight.shape[1:])
        )
        made = sum(_bytes(item) for item in (result if backward else [result]) if isinstance(item, Tensor))
        return made + unfolded * groups * value.element_size()
    if any(_channels_last(tensor) for tensor in (value, weight)):
        return 0
    block = 16 if "512" in torch.backends.cpu.get_cpu_capability() else 8
    outer_copy, value_copy = _blocked(outer, block), _blocked(value, block)
    read = value_copy if value.shape[1] >= block or groups > 1 else 0  # few channels are read as they are
    if not backward:
        return max(read + outer_copy, outer_copy + _bytes(outer))
    if result[0] is None:
        return outer_copy + read
    # A strided one makes the gradient in another order first, where no channels are filled up.
    laid_out = 2 if max(args[4]) > 1 and groups == 1 and value_copy == _bytes(value) else 1
    return max(outer_copy + value_copy, value_copy + laid_out * _bytes(value), _bytes(value) + outer_copy + read)


def _blocked(tensor: Tensor, block: int) -> int:
    """Bytes of a copy whose channels are filled up to whole blocks."""
    channels = tensor.shape[1]
    return _bytes(tensor) // channels * -(-channels // block) * block


def _channels_last(tensor: Tensor) -> bool:
    """And not also contiguous, as a filter of 1x1 is."""
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _evaluate(fake: FakeTensorMode, source: LiveSource, view: View) -> None:
    batch = _faked(fake, Batch({MAIN: view}))
    with source.evaluating():
        source(Classify(), batch, MAIN, ()).dense()


def _empty(fake: FakeTensorMode, module: nn.Module) -> None:
    """Replace parameters and buffers by fake ones; what is shared stays shared."""
    for inner in module.modules():
        for tensors in cast(list[dict[str, Any]], [inner._parameters, inner._buffers]):
            for name, value in tensors.items():
                if value is not None and not isinstance(value, FakeTensor):
                    tensors[name] = fake.from_tensor(value)


def _faked(fake: FakeTensorMode, batch: Batch) -> Batch:
    return Batch(
        {
            name: replace(
                view, **{key: tree_map_only(Tensor, fake.from_tensor, value) for key, value in vars(view).items()}
            )
            for name, view in batch.views.items()
        }
    )


class _Said:
    """Stands for a source that has no network: answers of the shapes that it gave for the probe."""

    trained = False
    module = None

    def __init__(self, source: Source, engine: Engine):
        self.provides, self.fingerprint = source.provides, source.fingerprint
        probe = next(iter(engine.loader.epoch(0)))
        wanted: Mapping[tuple[str, str], tuple[str, ...]] = engine.system.wanted
        taps = wanted.get(("teacher", MAIN), ())
        self.seen = source(Classify(), probe, MAIN, taps)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        def like(tensor: Tensor) -> Tensor:
            return torch.empty(
                len(batch.views[view]), *tensor.shape[1:], dtype=tensor.dtype, device=batch.views[view].index.device
            )

        return Outputs(like(self.seen.dense()), {tap: like(self.seen.taps[tap]) for tap in taps})
