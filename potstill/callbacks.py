"""What may happen before the first step, after an evaluation, or at the end of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.engine import Engine


class Callback:
    """May rescale the learning rate (`engine.lr_factor`), reload weights, make another `engine.optimizer`, or stop the
    run (`engine.stop`). One with `state_dict` is checkpointed.
    """

    def on_start(self, engine: Engine) -> None:
        """Before the first batch of this process; what a resumed run remembers is loaded already."""

    def on_evaluate(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After every evaluation; the row of `metrics.jsonl` may be added to."""

    def on_epoch(self, engine: Engine) -> None:
        """At the end of every epoch, after its evaluation if there is one."""


def reported(task: object) -> dict[str, Any]:
    """What a task that counts something says of an epoch, for its row of `metrics.jsonl`; rank 0 speaks for itself."""
    report = getattr(task, "report", None)
    found = report() if report is not None else {}
    return {"report": found} if found else {}


class FreshMoments(Callback):
    """The optimizer forgets its moments (and its count of steps) at the end of every epoch, as if it were made anew."""

    def on_epoch(self, engine: Engine) -> None:
        engine.optimizer.state.clear()
