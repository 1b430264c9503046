"""Who speaks: the student, a frozen teacher, or something that stands for one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from potstill.compiling import compiled
from potstill.data.preprocess import Preprocess
from potstill.errors import did_you_mean
from potstill.language.layers import GROUPS, Layers, find_layers, is_name
from potstill.precision import Precision, lay_out
from potstill.taps import Taps, stages_of
from potstill.types import Batch, Follows, Objective, Outputs, Source, Stateful, Task, View

USUAL = ("stem", "last_map", "pooled_map", "embedding")
"""Taps that the probe may find, beside stages."""


class Network:
    """A live network: the student or another trained source (`trained=True`), or a frozen teacher.

    `names` are the taps that the probe found; any module path is a tap too. Without `preprocess` the input goes in
    as it is. A frozen network runs in evaluation mode, gets no gradient and never changes, batch-norm statistics
    included; `close()` gives it back in the mode it had.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        trained: bool,
        preprocess: Preprocess | None = None,
        names: Mapping[str, str] | None = None,
        precision: Precision | None = None,
    ):
        self._module = module
        self.trained = trained
        self.preprocess = preprocess
        self.names = dict(names or {})
        self.precision = precision or Precision()
        self._modes = {m: m.training for m in module.modules()}
        self._taps: dict[tuple[str, ...], Taps] = {}
        if not trained:
            module.eval()

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def provides(self) -> None:
        return None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.preprocess, self.precision)).encode())
        for name, value in self._module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        """`stages` means every stage that the probe found, `stages.pre` the same before activation; `hiddens` and the
        like every layer of a transformer (`language/layers.py`).
        """
        found: list[str] = []
        for tap in taps:
            if tap in GROUPS and tap not in dict(self._module.named_modules()):
                found.extend(self._layers.group(tap))
                continue
            if tap not in ("stages", "stages.pre"):
                found.append(tap)
                continue
            suffix = tap.removeprefix("stages")
            stages = stages_of(self.names)
            if not stages:
                raise ValueError(self._lacks(f"stage1{suffix}"))
            found.extend(name + suffix for name in stages)
        return tuple(found)

    def taps(self, names: Sequence[str]) -> Taps:
        key = tuple(names)
        if key not in self._taps:
            for name in key:
                usual = name in USUAL or stages_of([name.removesuffix(".pre")])
                if name not in self.names and usual:
                    raise ValueError(self._lacks(name))
            self._taps[key] = Taps(self._module, {name: self._path(name) for name in key}, also=self.names)
        return self._taps[key]

    @cached_property
    def _layers(self) -> Layers:
        return find_layers(self._module)

    def _path(self, name: str) -> str:
        if name in self.names or not is_name(name) or name in dict(self._module.named_modules()):
            return self.names.get(name, name)
        known = self._layers.names
        if name not in known:
            raise ValueError(
                f"{type(self._module).__name__} has no {name!r}: it has {len(self._layers.queries)} layers; "
                + did_you_mean(name, known)
            )
        return known[name]

    def _lacks(self, name: str) -> str:
        found = f"the probe found {', '.join(sorted(self.names)) or 'nothing'}"
        reason, advice = found, "name a module path instead"
        if name == "embedding":
            reason = "no nn.Linear produces its answer"
        elif name.endswith(".pre") and name.removesuffix(".pre") in self.names:
            reason = "no activation of its own makes that map"
            advice = "in a potstill.Term write 'stages', the maps after activation, or module paths instead"
        elif "last_map" not in self.names:
            reason = f"it has no feature map [B, C, H, W] ({found})"
            advice = "kd, icd and srrl learn from answers and embeddings; or name a module path"
        paths = did_you_mean(name, [path for path, _ in self._module.named_modules() if path])
        return f"{type(self._module).__name__} has no {name!r}: {reason}; {advice}; {paths}"

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        with nullcontext() if self.trained else torch.no_grad(), self.precision.autocast(seen.index.device):
            ready = seen.input if self.preprocess is None else self.preprocess(seen.input, self.precision.dtype)
            prepared = batch.with_view(view, replace(seen, input=self.precision.arrange(ready)))
            speaker = compiled(self._module, taps) if self.precision.compiled else self._module
            outputs = self.taps(taps)(lambda: task.forward(speaker, prepared, view))
            if self.preprocess is None or self.preprocess.label_map is None:
                return outputs
            return Outputs(self.preprocess.labels(outputs.dense()), outputs.taps)

    def with_module(self, module: nn.Module) -> Network:
        """The same source with other weights (the moving average, say)."""
        return Network(
            module,
            trained=self.trained,
            preprocess=self.preprocess,
            names=self.names,
            precision=self.precision,
        )

    def with_names(self, names: Mapping[str, str]) -> Network:
        """The same source once its usual taps are known."""
        self.names = dict(names)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradient, then back as it was."""
        with evaluated(self._module):
            yield

    def close(self) -> None:
        """Give the network back in the modes, and with the layout of weights, that are usual."""
        lay_out(self._module, torch.contiguous_format)
        for module, mode in self._modes.items():
            module.training = mode


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient, and every module's own mode again afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Shuffled:
    """A control: what the other source says, but about another sample of the batch.

    A method that claims to use the teacher must beat its own shuffled teacher. Rows are rolled by one, so no sample
    keeps its own; the order of a training batch is random, so the pairing is.
    """

    trained = False

    def __init__(self, source: Source):
        self.source = source

    @property
    def module(self) -> nn.Module | None:
        return self.source.module

    @property
    def provides(self) -> frozenset[str] | None:
        return self.source.provides

    @property
    def fingerprint(self) -> str:
        return "shuffled:" + self.source.fingerprint

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        expand = getattr(self.source, "expand", None)
        return expand(taps) if expand else tuple(taps)

    def fits(self, name: str, objective: Objective, taps: Sequence[str]) -> None:
        if fits := getattr(self.source, "fits", None):
            fits(name, objective, taps)

    def follow(self) -> None:
        if isinstance(self.source, Follows):
            self.source.follow()

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict() if isinstance(self.source, Stateful) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.source, Stateful):
            self.source.load_state_dict(state)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        outputs = self.source(task, batch, view, taps)
        rows = max(len(batch.views[view]) // len(batch), 1)  # of an example: one of several images gets another's whole
        return Outputs(outputs.output.roll(rows, 0), {name: tap.roll(rows, 0) for name, tap in outputs.taps.items()})


class Heard:
    """A frozen source that several students ask about the same batch: it runs once a view and micro-batch.

    It is asked for all the taps that `expect` was told of, whoever asks first. What it is asked about is recognised by
    where its tensors lie in memory, and they are kept until `forget`, which belongs in front of every batch.
    """

    trained = False

    def __init__(self, source: Source):
        self.source = source
        self._expected: dict[str, tuple[str, ...]] = {}
        self._said: dict[Any, tuple[View, Outputs]] = {}

    @property
    def module(self) -> nn.Module | None:
        return self.source.module

    @property
    def provides(self) -> frozenset[str] | None:
        return self.source.provides

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        expand = getattr(self.source, "expand", None)
        return expand(taps) if expand else tuple(taps)

    def fits(self, name: str, objective: Objective, taps: Sequence[str]) -> None:
        if fits := getattr(self.source, "fits", None):
            fits(name, objective, taps)

    def with_module(self, module: nn.Module) -> Source:
        """The same source with other weights, which nobody shares."""
        with_module = getattr(self.source, "with_module", None)
        if with_module is None:
            raise ValueError(f"{type(self.source).__name__} stands for a network and cannot be given other weights")
        return with_module(module)

    def expect(self, view: str, taps: Sequence[str]) -> None:
        """Somebody will ask for these."""
        self._expected[view] = tuple(dict.fromkeys([*self._expected.get(view, ()), *taps]))

    def forget(self) -> None:
        self._said.clear()

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        key = view, seen.number, memory_of(seen.input), memory_of(seen.index)
        known = self._said.get(key)
        if known is None or not set(taps) <= known[1].taps.keys():
            asked = dict.fromkeys([*self._expected.get(view, ()), *taps])
            # Keeping the view keeps its memory from being given to another one.
            known = self._said[key] = seen, self.source(task, batch, view, tuple(asked))
        return known[1]


def memory_of(value: Any) -> Any:
    """What two tensors have in common that are the same part of the same memory, not written to in between."""
    if isinstance(value, Tensor):
        return value.data_ptr(), value._version, value.shape, value.stride(), value.dtype
    if isinstance(value, Mapping):
        return tuple((name, memory_of(item)) for name, item in value.items())
    return id(value)
