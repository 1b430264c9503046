"""What may happen after an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from potstill.engine import Engine


class Callback(Protocol):
    """Called after every evaluation. It may rescale the learning rate (`engine.lr_factor`), reload weights, reset
    `engine.optimizer`, or stop the run (`engine.stop`). One with `state_dict` is checkpointed.
    """

    def on_evaluate(self, engine: Engine, metrics: dict[str, Any]) -> None: ...
