"""The learning rate falls where the watched accuracy has stopped rising, and the best weights come back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from potstill.callbacks import Callback

if TYPE_CHECKING:
    from potstill.engine import Engine

WATCHED = "watched_top1"
DROP = 0.1
"""What the rate is multiplied with on a plateau."""
PLATEAUS = 3
"""The run ends with so many: there are as many levels of the learning rate."""


class Plateau(Callback):
    """CKD's schedule: `fit.schedule` plateau.

    An evaluation is better when its accuracy on the watched images is higher than every one before. After `patience`
    evaluations in a row without a better one, the best weights (of all that is trained, objectives and their buffers
    included) are loaded and the learning rate is a tenth; the optimizer keeps its momentum, as in the released code.
    With the third plateau, or the last epoch, the run ends with the best weights: they are its result.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.best, self.waited, self.plateaus = float("-inf"), 0, 0
        self.weights: dict[str, Any] = {}

    def on_evaluate(self, engine: Engine, metrics: dict[str, Any]) -> None:
        if metrics[WATCHED] > self.best:
            self.best, self.waited = metrics[WATCHED], 0
            self.weights = copy.deepcopy(_weights(engine))
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self.waited, self.plateaus = 0, self.plateaus + 1
            engine.lr_factor *= DROP
            engine.stop = self.plateaus == PLATEAUS
            self._reload(engine)
        elif engine.over:
            self._reload(engine)

    def _reload(self, engine: Engine) -> None:
        engine.system.load_state_dict(self.weights["system"])
        if engine.average is not None:
            engine.average.load_state_dict(self.weights["average"])

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "plateaus": self.plateaus, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.plateaus = state["best"], state["waited"], state["plateaus"]
        self.weights = state["weights"]


def _weights(engine: Engine) -> dict[str, Any]:
    average = {} if engine.average is None else {"average": engine.average.state_dict()}
    return {"system": engine.system.state_dict(), **average}
