"""How to train: the loop, ranks, evaluation, and the promise that a killed run goes on with the same bits.

The engine knows terms, sources and a task; it knows no method, no data set and no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from potstill import checkpoint, compiling
from potstill.callbacks import Callback, reported
from potstill.loop import Loader, Result, drive
from potstill.optim import average_of, make_optimizer
from potstill.ranks import add_up, agree_on_buffers, rank, world_size
from potstill.recipe import Fit
from potstill.sharding import held
from potstill.step import Stepper, System
from potstill.terms import Wired
from potstill.types import Batch, Follows, LiveSource, Progress, Source, Stateful, Task


class Engine:
    """Trains the student (and other trained sources) against the terms.

    `evaluate(source) -> metrics` runs after an epoch on the student source. `folder` receives `metrics.jsonl`,
    `timings.jsonl` and `checkpoint/`; without one nothing is written and the run cannot resume.
    """

    def __init__(
        self,
        *,
        task: Task,
        sources: Mapping[str, Source],
        terms: Sequence[Wired],
        loader: Loader,
        fit: Fit,
        seed: int = 0,
        device: torch.device | str = "cpu",
        evaluate: Callable[[LiveSource], dict[str, Any]] | None = None,
        callbacks: Sequence[Callback] = (),
        folder: Path | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ):
        self.task, self.sources, self.loader, self.fit, self.seed = task, dict(sources), loader, fit, seed
        self.device, self.folder, self.callbacks = torch.device(device), folder, list(callbacks)
        self.evaluate, self.on_step = evaluate, on_step
        self.system = System(task, sources, list(terms), seed)
        self.followers = [source for source in self.sources.values() if isinstance(source, Follows)]
        student = self.sources["student"]
        precision = getattr(student, "precision", None)
        if precision is not None:
            precision.place(self.system, self.device)
        self.total = fit.epochs * loader.steps * task.steps_per_batch
        self.schedule = fit.learning_rate()
        self.lr_factor, self.stop = 1.0, False
        self.average = average_of(self.system.networks["student"], fit.ema) if fit.ema else None
        self.step = self.done_epochs = self.done_batches = 0
        self.sums = torch.zeros(len(terms), device=self.device, dtype=torch.float64)
        self.finite = torch.zeros_like(self.sums)
        self.counted = 0
        self.history: list[dict[str, Any]] = []
        self.result = Result(self.history)

    def run(self, resume: bool = False) -> Result:
        """Train to the end. Raises Interrupted on Ctrl-C, after saving a checkpoint; ValueError on a loss of NaN."""
        for error in drive([self], resume).values():
            raise error
        return self.result

    def start(self, resume: bool = False) -> None:
        """Get ready for the first batch, or for the one after the checkpoint."""
        state = checkpoint.read(self.folder) if resume and self.folder and checkpoint.exists(self.folder) else None
        if state is not None:
            self._load_weights(state)
        self.begin()
        if state is not None:
            self._load_progress(state)
        elif self.folder:
            for name in ("metrics.jsonl", "timings.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
        for callback in self.callbacks:
            callback.on_start(self)
        self.saved = time.monotonic()

    @property
    def position(self) -> tuple[int, int]:
        """Epochs that are done, and batches of the next."""
        return self.done_epochs, self.done_batches

    @property
    def over(self) -> bool:
        return self.done_epochs >= self.fit.epochs or self.stop

    @property
    def progress(self) -> Progress:
        return Progress(self.step, self.done_epochs, self.total)

    @property
    def student(self) -> nn.Module:
        """The network that is evaluated and exported: the averaged one where averaging is on."""
        return self.average.module if self.average is not None else self.system.networks["student"]

    @property
    def evaluated(self) -> LiveSource:
        """The source that speaks for the exported network."""
        student = cast(LiveSource, self.sources["student"])
        return student if self.average is None else student.with_module(self.average.module)

    def begin(self) -> None:
        """Wrap the system for its ranks and make the optimizer."""
        self.held = held(self.system, self.average, self.device, self.fit.shard)
        self.stepper = Stepper(self.held.system, self.held.wrapped, self.fit.micro_batch)
        self.optimizer = make_optimizer(self.held.system, self.fit)

    def train_on(self, batch: Batch) -> None:
        """One loader batch: prepare it, and take its optimizer steps."""
        for prepared in self.prepared(batch):
            self.differentiate(prepared)
            self.move()
        self.done_batches += 1

    def prepared(self, batch: Batch) -> Iterable[Batch]:
        """What the task makes of a loader batch: one batch for each optimizer step."""
        if self.held.system is self.system:
            return self.task.prepare(batch, self.sources, self.progress, self.seed)
        sources = self.held.system.sources
        return self.stepper.whole(lambda: tuple(self.task.prepare(batch, sources, self.progress, self.seed)))

    def differentiate(self, batch: Batch) -> None:
        """The first half of an optimizer step: gradients, and what objectives remember."""
        self.held.system.train()
        if self.step == 0:
            self.stepper.prime(batch, self.progress)
        self.optimizer.zero_grad()
        with compiling.step(len(batch) * world_size() == getattr(self.loader, "batch_size", None)):
            shares = self.stepper(batch, self.progress)
        self.held.exchange()
        self.sums += shares
        self.finite += shares.isfinite()

    def move(self) -> None:
        """The second half: move the weights along the gradients."""
        rate = self.fit.lr * self.lr_factor * self.schedule(self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)  # an optimizer of a callback's has none
        if self.fit.clip is not None:
            self.held.clip(self.fit.clip)
        self.optimizer.step()
        self.held.follow()
        for source in self.followers:
            source.follow()
        self.step += 1
        self.counted += 1
        if self.on_step is not None:
            self.on_step(self.progress)

    def end_epoch(self, seconds: float, waited: float, students: int = 1) -> None:
        """Log, evaluate and call back. The times are this student's share, of so many that train side by side.

        Raises ValueError for a term that became NaN or infinite.
        """
        means = (add_up(self.sums) / max(self.counted, 1)).tolist()
        terms = {term.name: value for term, value in zip(self.system.wired, means, strict=True)}
        before = Progress(max(self.step - 1, 0), self.done_epochs, self.total)
        loss = sum(term.weighted(before) * terms[term.name] for term in self.system.wired)
        bad = [name for name, value in terms.items() if value != value or abs(value) == float("inf")]
        if bad:
            # One bad step spoils the weights, and with them every term: name the one that was the first.
            lasted = dict(zip(terms, add_up(self.finite).tolist(), strict=True))
            first = min(bad, key=lasted.__getitem__)
            raise ValueError(
                f"term {first!r} became NaN or infinite in epoch {self.done_epochs + 1}; lower the learning rate "
                f"({self.fit.lr}), clip the gradient (fit.clip), or run in float32"
            )
        self.done_epochs += 1
        steps, self.done_batches, self.counted = self.done_batches, 0, 0
        self.sums.zero_()
        self.finite.zero_()
        rate = self.fit.lr * self.lr_factor * self.schedule(before)
        row: dict[str, Any] = {"epoch": self.done_epochs, "step": self.step, "lr": rate, "loss": loss, "terms": terms}
        row |= reported(self.task)
        last = self.done_epochs == self.fit.epochs
        evaluates = self.evaluate is not None and (last or self.done_epochs % self.fit.evaluate_every == 0)
        if evaluates:
            agree_on_buffers(self.held.system.networks)
        with self.held.shown(evaluates or bool(self.callbacks)):
            if evaluates:
                row |= self._evaluated()
                for callback in self.callbacks:
                    callback.on_evaluate(self, row)
            for callback in self.callbacks:
                callback.on_epoch(self)
        if self.callbacks:  # one may have reloaded weights
            self.held.adopt()
        self.history.append(row)
        self._append("metrics.jsonl", row)
        timing = {"epoch": self.done_epochs, "seconds": seconds, "waited_for_data": waited, "steps": steps}
        timing |= {"side_by_side": students} if students > 1 else {}
        self._append("timings.jsonl", timing)
        if self.over:
            self.held.release()

    def _evaluated(self) -> dict[str, Any]:
        if self.average is not None:
            latest = self.system.networks["student"]
            for mine, theirs in zip(self.average.module.buffers(), latest.buffers(), strict=True):
                mine.copy_(theirs)
        assert self.evaluate is not None
        return self.evaluate(self.evaluated)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if self.folder and rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _stateful(self) -> dict[str, Stateful]:
        parts: dict[str, Any] = {"task": self.task, **{f"source {n}": s for n, s in self.sources.items()}}
        parts |= {f"callback {number}": callback for number, callback in enumerate(self.callbacks)}
        return {name: part for name, part in parts.items() if isinstance(part, Stateful)}

    def due(self) -> bool:
        """Whether a checkpoint should be saved now, inside an epoch."""
        # By the clock in one process; ranks must agree without talking, so theirs are saved by step and epoch.
        by_step = self.fit.checkpoint_steps is not None and self.step % self.fit.checkpoint_steps == 0
        by_clock = world_size() == 1 and time.monotonic() - self.saved > self.fit.checkpoint_seconds
        return self.loader.exact and (by_step or by_clock)

    def save(self) -> None:
        """Write a checkpoint."""
        if not self.folder:
            return
        self.saved = time.monotonic()
        if world_size() > 1:  # rank 0 keeps the sum from here on, so that a resumed run adds in the same order
            total = add_up(self.sums)
            self.sums = total if rank() == 0 else torch.zeros_like(total)
        self.held.gather()
        optimizer = self.held.state(self.optimizer)
        if rank() != 0:
            return
        position = {
            "step": self.step,
            "epochs": self.done_epochs,
            "batches": self.done_batches,
            "counted": self.counted,
            "lr_factor": self.lr_factor,
            "stop": self.stop,
            "total": self.total,
        }
        checkpoint.save(
            self.folder,
            {
                "system": self.system.state_dict(),
                "optimizer": optimizer,
                "average": self.average.state_dict() if self.average is not None else None,
                "stateful": {name: part.state_dict() for name, part in self._stateful().items()},
                "sums": self.sums,
                "position": position,
                "history": json.dumps(self.history),
            },
        )

    def _load_weights(self, state: dict[str, Any]) -> None:
        if state["position"]["total"] != self.total:
            raise ValueError(
                f"the checkpoint in {self.folder} belongs to a run of {state['position']['total']} steps, this one has "
                f"{self.total}; use the same recipe, or another output folder"
            )
        try:
            self.system.load_state_dict(state["system"])
        except RuntimeError as error:
            raise ValueError(f"the checkpoint in {self.folder} belongs to other networks or terms: {error}") from None
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _load_progress(self, state: dict[str, Any]) -> None:
        self.held.load(self.optimizer, state["optimizer"])
        for name, part in self._stateful().items():
            if name in state["stateful"]:  # a checkpoint may be older than what remembers
                part.load_state_dict(state["stateful"][name])
        position = state["position"]
        self.step, self.done_epochs = position["step"], position["epochs"]
        self.done_batches, self.counted = position["batches"], position["counted"]
        self.lr_factor, self.stop = position["lr_factor"], position["stop"]
        if self.over:
            self.held.release()
        if rank() == 0:
            self.sums.copy_(state["sums"])
        self.history[:] = json.loads(state["history"])
        # Rows written after the checkpoint belong to steps that are taken again.
        if self.folder and rank() == 0:
            rows = "".join(json.dumps(row) + "\n" for row in self.history)
            checkpoint.write_beside(self.folder / "metrics.jsonl", lambda path: path.write_text(rows))
