"""A network with several ends: all before its last stage is shared, and a gate weighs what the ends say.

Letters in shapes: B batch, C channels, H height, W width, K classes, M branches.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from potstill.functional import at_least_float32
from potstill.sources import Network
from potstill.taps import Taps, stages_of, untouched
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, Outputs, Task

_ALONE = threading.RLock()


class Gate(nn.Module):
    """How much each branch counts, `[B, M]`: a linear layer on the averaged map, batch norm, ReLU, softmax."""

    def __init__(self, width: int, branches: int):
        super().__init__()
        self.linear, self.bn = nn.Linear(width, branches), nn.BatchNorm1d(branches)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        return at_least_float32(self.bn(self.linear(features.mean((2, 3)))).relu()).softmax(1)


class Tail(nn.Module):
    """What a network does behind the module at `path`. The network is taken apart: nothing of `emptied` is left."""

    def __init__(self, network: nn.Module, path: str, emptied: Sequence[str]):
        super().__init__()
        self.network, self.given = network, _Given()
        for name in emptied:
            _put(network, name, _Passed())
        _put(network, path, self.given)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        self.given.value = features
        try:
            return self.network(features)
        finally:
            self.given.value = None


class _Passed(nn.Module):
    """Stands where nothing is computed any more."""

    def forward(self, x, *rest, **options):
        return x


class _Given(nn.Module):
    """Answers with what it was given, whatever it is asked."""

    value: Tensor | None = None

    def forward(self, *asked, **options):
        return self.value


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


class Ends(nn.Module):
    """Further ends for a network's map at `path` (`width` channels), and the gate.

    `others` are networks like it, of which only what runs behind `path` is kept; `emptied` names the rest, as
    `in_front` finds it.
    """

    def __init__(self, others: Sequence[nn.Module], path: str, emptied: Sequence[str], width: int):
        super().__init__()
        self.path, self.emptied, self.width = path, tuple(emptied), width
        self.tails = nn.ModuleList(Tail(other, path, emptied) for other in others)
        self.gate = Gate(width, 1 + len(others))

    def forward(self, features: Float[Tensor, "B C H W"], first: Float[Tensor, "B K"]) -> tuple[Tensor, list[Tensor]]:
        """The gated logits `[B, K]`, and those of each branch; the `first` ones are the network's own."""
        answers = [first, *(tail(features) for tail in self.tails)]
        return (self.gate(features)[:, :, None] * torch.stack(answers, 1)).sum(1), answers


class Branches:
    """The source of a student's branches: `ends` are its own, the rest is the student.

    It answers with the ensemble; taps `branch1` (the student's own answer), `branch2` … are the branches.
    """

    trained = True

    def __init__(self, student: Network, ends: Ends):
        self.student, self.ends = student, ends

    @property
    def module(self) -> nn.Module:
        return self.ends

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(f"branch{number}" for number in range(1, 2 + len(self.ends.tails)))

    @property
    def fingerprint(self) -> str:
        return f"branches:{self.student.fingerprint}"

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        said = self.student(task, batch, view, (self.ends.path,))
        with self.student.precision.autocast(batch.views[view].index.device):
            whole, answers = self.ends(said.taps[self.ends.path], said.dense())
        return Outputs(whole, {tap: answers[int(tap.removeprefix("branch")) - 1] for tap in taps})


class Ensemble(nn.Module):
    """A student that answers with its gated branches: `body` is the first, `ends` are the others."""

    def __init__(self, body: nn.Module, ends: Ends):
        super().__init__()
        self.body, self.ends = body, ends
        self._features = Taps(body, {"features": ends.path}, needs_gradient=False)

    @classmethod
    def like(cls, body: nn.Module, path: str, emptied: Sequence[str], width: int, branches: int) -> Ensemble:
        """As `described`, around a network of the same architecture, for weights to be loaded into."""
        return cls(body, Ends([copy.deepcopy(body) for _ in range(branches - 1)], path, emptied, width))

    @property
    def described(self) -> dict:
        """The arguments of `like`."""
        ends = self.ends
        sizes = {"width": ends.width, "branches": 1 + len(ends.tails)}
        return {"path": ends.path, "emptied": list(ends.emptied), **sizes}

    @property
    def taps(self) -> dict[str, str]:
        """Branches by name, and the places that the student names itself, but for its answer's."""
        own = dict(getattr(self.body, "taps", None) or {})
        inner = {name: f"body.{path}" for name, path in own.items() if name not in ("embedding", "pooled_map")}
        tails = {f"branch{number}": f"ends.tails.{number - 2}" for number in range(2, 2 + len(self.ends.tails))}
        return inner | {"branch1": "body"} | tails

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        with _ALONE:  # the tap is a hook: two threads of a server must not see each other's
            said = self._features(lambda: self.body(x))
        return self.ends(said.taps["features"], said.dense())[0]


def ends_of(student: Network, batch: Batch, others: Sequence[Callable[[], nn.Module]]) -> Ends:
    """Further ends for a student, cut in front of its last stage as the probe found it, placed like the student.

    `others` make networks like it.

    Raises:
        ValueError: a network without two stages of maps, or one that does not compute what is behind the cut from the
            map there alone.
    """
    name, stages = type(student.module).__name__, stages_of(student.names)
    path = student.names[stages[-2]] if len(stages) > 1 else ""
    if path not in dict(student.module.named_modules()) or not path:
        found = f"the probe found {', '.join(stages) or 'no stages'}"
        reason = f"{stages[-2]} is {path!r}, which is no module" if path else found
        raise ValueError(
            f"one: {name} cannot be branched in front of its last stage, since it needs two stages of maps "
            f"[B, C, H, W]: {reason}"
        )
    if student.preprocess is not None and student.preprocess.label_map is not None:
        raise ValueError("one: branches answer in the classes of the data, and this student has a label map")
    with untouched(student.module), torch.no_grad():
        try:
            emptied = in_front(student.module, path, lambda: student(Classify(), batch, MAIN, ()))
            said = student(Classify(), batch, MAIN, (path,))
            width = said.taps[path].shape[1]
            again = Tail(copy.deepcopy(student.module), path, emptied).eval()
            with student.precision.autocast(batch.main.index.device):
                same = torch.allclose(again(said.taps[path]).float(), said.dense().float(), rtol=1e-2, atol=1e-3)
            trouble = "" if same else "it gives other answers then"
        except (RuntimeError, TypeError, AttributeError, IndexError, AssertionError) as error:
            trouble = str(error)
    if trouble:
        raise ValueError(
            f"one: {name} cannot be branched behind {path!r}: what follows must be computed from that map alone "
            f"({trouble}); take a network whose stages are modules that run one after the other"
        )
    ends = Ends([make() for make in others], path, emptied, width)
    student.precision.place(ends, batch.main.index.device)
    return ends


def in_front(network: nn.Module, path: str, run: Callable[[], object]) -> list[str]:
    """The outermost modules that are done with when the one at `path` is, those around it left out.

    Raises:
        ValueError: a module with parameters runs both before and after.
    """
    modules = dict(network.named_modules())
    seen: dict[str, set[bool]] = {}
    behind = False

    def note(name: str) -> Callable[..., None]:
        return lambda module, args: seen.setdefault(name, set()).add(behind)

    def passed(module: nn.Module, args: object, result: object) -> None:
        nonlocal behind
        behind = True

    handles = [module.register_forward_pre_hook(note(name)) for name, module in modules.items()]
    handles.append(modules[path].register_forward_hook(passed))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    units: list[str] = []
    for name in modules:
        around = name == "" or path == name or path.startswith(f"{name}.")
        inside = any(name.startswith(f"{unit}.") for unit in [*units, path])
        if name in seen and not around and not inside:
            units.append(name)
    for name in units:
        if len(seen[name]) > 1 and any(True for _ in modules[name].parameters()):
            raise ValueError(
                f"one: module {name!r} runs both before and behind {path!r}, so no branch can have its own"
            )
    return [name for name in units if seen[name] == {False}]
