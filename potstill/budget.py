"""A teacher that takes only so many calls. What it said is kept, and a killed run gets no further calls.

Letters in shapes: N samples, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from potstill.checkpoint import write_beside
from potstill.data.loaders import Split, shown
from potstill.hashing import hash_int
from potstill.ranks import rank, wait
from potstill.tasks.classify import Classify
from potstill.types import MAIN, Batch, Objective, Outputs, Progress, Source, Task, View

if TYPE_CHECKING:
    from potstill.recipe import Recipe

ANSWERS = "answers.safetensors"
ASKED = 256
"""Samples that are asked about at once."""


class Budgeted:
    """A frozen source that is asked about a sample once, on one augmentation of it, and about `budget` samples at most.

    `crops(index)` are the inputs that it is asked about: one for each sample, a function of its index; `about` tells
    them from others. The answer speaks for every view of that sample from then on, whatever the student sees, as in
    CKD's released code (arXiv:2311.02253). So it cannot speak for a view that mixes samples. `calls` counts
    the samples.

    What a method reads inside the network (taps) is computed again from the sample's crop, as there; with the crop
    known this tells nothing that the call could not have told, and is not counted. Nor is looking at the network: its
    taps, its accuracy on the validation data.

    Until every sample has been asked about (`fill`), answering waits for the device to say which samples are new.

    Raises:
        ValueError: a budget below 1 or above `samples`; when called: call number `budget` + 1, or a sample outside
            [0, samples).

    >>> from potstill.sources import Network
    >>> rows = torch.eye(3)
    >>> teacher = Budgeted(Network(torch.nn.Linear(3, 2), trained=False), 2, 3, rows.__getitem__)
    >>> batch = Batch({MAIN: View(None, torch.tensor([2, 0, 2]))})
    >>> teacher(Classify(), batch, MAIN, ()).output.shape, teacher.calls
    (torch.Size([3, 2]), 2)
    """

    trained = False
    module = None

    def __init__(self, source: Source, budget: int, samples: int, crops: Callable[[Tensor], Any], about: str = ""):
        if budget < 1:
            raise ValueError(f"a budget is at least 1 call, got {budget}")
        if budget > samples:
            raise ValueError(
                f"a budget of {budget} calls is larger than the data: there are {samples} training images, and the "
                "teacher is asked about each once (teacher.budget, data.subset)"
            )
        self.source, self.budget, self.samples, self.crops, self.about = source, budget, samples, crops, about
        self._known = torch.zeros(samples, dtype=torch.bool)
        self._answers: Tensor | None = None
        self.calls = 0
        """How many samples it was asked about."""

    @property
    def provides(self) -> frozenset[str] | None:
        return self.source.provides

    @property
    def fingerprint(self) -> str:
        return f"budget {self.budget}:{self.about}:{self.source.fingerprint}"

    def expand(self, taps: Sequence[str]) -> tuple[str, ...]:
        expand = getattr(self.source, "expand", None)
        return expand(taps) if expand else tuple(taps)

    def fits(self, name: str, objective: Objective, taps: Sequence[str]) -> None:
        if fits := getattr(self.source, "fits", None):
            fits(name, objective, taps)

    def fill(self, device: torch.device | str = "cpu", on_step: Callable[[Progress], None] | None = None) -> None:
        """Ask about every sample that it was not asked about yet."""
        self._ask(torch.arange(self.samples), torch.device(device), on_step)

    def __call__(self, task: Task, batch: Batch, view: str, taps: Sequence[str]) -> Outputs:
        seen = batch.views[view]
        if self.calls < self.samples:
            self._ask(seen.index.cpu(), seen.index.device)
        assert self._answers is not None
        if self._answers.device != seen.index.device:
            self._answers = self._answers.to(seen.index.device)
        try:
            output = self._answers.index_select(0, seen.index)
        except IndexError:
            raise ValueError(_outside(seen.index, self.samples)) from None
        if not taps:
            return Outputs(output)
        crop = replace(seen, input=self.crops(seen.index), number=None)
        return Outputs(output, self.source(task, batch.with_view(view, crop), view, taps).taps)

    def _ask(self, index: Tensor, device: torch.device, on_step: Callable[[Progress], None] | None = None) -> None:
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.samples:
            raise ValueError(_outside(index, self.samples))
        new = index.unique()
        new = new[~self._known[new]]
        if self.calls + len(new) > self.budget:
            raise ValueError(
                f"the teacher may be called {self.budget} times and was called {self.calls} times; it is now asked "
                f"about {len(new)} samples that it was not asked about before (the first is sample {int(new[0])})"
            )
        parts = new.split(ASKED)
        for step, part in enumerate(parts):
            rows = part.to(device)
            batch = Batch({MAIN: View(self.crops(rows), rows)})
            with torch.no_grad():
                said = self.source(Classify(), batch, MAIN, ()).dense()
            if self._answers is None:
                self._answers = said.new_zeros(self.samples, said.shape[1])
            self._answers[rows] = said
            self._known[part] = True
            self.calls += len(part)
            if on_step is not None:
                on_step(Progress(step + 1, 0, len(parts)))

    def state_dict(self) -> dict[str, Any]:
        return {"known": self._known, "answers": self._answers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        calls = int(state["known"].sum())
        if len(state["known"]) != self.samples or calls > self.budget:
            raise ValueError(
                f"{calls} answers about {len(state['known'])} samples do not belong to a budget of "
                f"{self.budget} calls about {self.samples} samples"
            )
        self._known, self._answers, self.calls = state["known"].cpu(), state["answers"], calls


def _outside(index: Tensor, samples: int) -> str:
    wrong = index[(index < 0) | (index >= samples)]
    return f"the teacher has a budget for samples 0 to {samples - 1}, and was asked about sample {int(wrong[0])}"


def budgeted(source: Source, budget: int, seen: Split, augment: str, data_seed: int) -> Budgeted:
    """A teacher that may be asked about each of the images that students see, on one augmentation of it.

    Which one is a function of (`data_seed`, the sample's index), so it is the same for every method of a run.
    """
    seed, about = hash_int(data_seed, "asked"), f"{seen.digest} {augment} {data_seed}"
    return Budgeted(source, budget, len(seen), lambda index: shown(seen, index, augment, seed, 0), about)


def spend(
    teacher: Source,
    folder: Path,
    device: torch.device,
    begin: Callable[[str, int], Callable[[Progress], None]],
) -> dict[str, int]:
    """All answers of a teacher with a budget, from `folder` where a run that was begun has them, else asked for now and
    written there. Another teacher is left alone.

    Returns what the summary says of it. Raises ValueError for answers of another teacher or about other images.
    """
    if not isinstance(teacher, Budgeted):
        return {}
    key = hashlib.sha256(teacher.fingerprint.encode()).hexdigest()[:16]
    path = folder / ANSWERS
    if rank() == 0 and not path.exists():
        teacher.fill(device, begin("the teacher's answers", -(-teacher.samples // ASKED)))
        state = {name: value.cpu().contiguous() for name, value in teacher.state_dict().items()}
        write_beside(path, lambda beside: save_file(state, beside, metadata={"key": key}))
    wait()
    try:
        with safe_open(path, "pt") as file:
            mark, names = (file.metadata() or {}).get("key"), list(file.keys())
            state = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); choose another --out") from None
    if mark != key:
        raise ValueError(
            f"{path} holds what another teacher said, or what it said of other images; bring them back, or choose "
            "another --out"
        )
    teacher.load_state_dict({**state, "answers": state["answers"].to(device)})
    return {"calls": teacher.calls}


def seen_by_students(recipe: Recipe) -> int | None:
    """How many training images students see; None: all.

    Raises ValueError for a subset that the teacher's budget does not pay for, or that is not worth it; a budget of
    another network, or beside a cache; and a schedule that has nothing to watch.
    """
    data, spec = recipe.data, recipe.teacher
    for role, other in (("student", recipe.student), *((one.name, one.network) for one in recipe.assistants)):
        if other.budget is not None:
            raise ValueError(f"{role}: only the teacher has a budget (teacher.budget)")
    if spec.cache is not None:
        for name, value in (
            ("teacher.budget", spec.budget),
            ("data.subset", data.subset),
            ("data.watched", data.watched),
        ):
            if value is not None:
                raise ValueError(f"{name} does not go with teacher.cache, which was asked about all training images")
    if recipe.fit.schedule == "plateau" and data.watched is None:
        raise ValueError(
            "fit.schedule plateau watches training images that are set aside: say which part, e.g. --data.watched 0.2"
        )
    own = recipe.teacher_fit or recipe.fit
    if own.schedule == "plateau" and not spec.taught:
        raise ValueError(
            "the teacher is trained on all images and has none to watch: give teacher_fit another schedule, e.g. "
            "--teacher-fit.schedule milestones"
        )
    if spec.budget is not None and data.subset not in (None, spec.budget):
        fewer = "larger than the data" if data.subset < spec.budget else "too small for the data"
        raise ValueError(
            f"teacher.budget={spec.budget} is {fewer}: students see data.subset={data.subset} images, and the teacher "
            "is asked about each of them once; leave data.subset out"
        )
    return data.subset if spec.budget is None else spec.budget
