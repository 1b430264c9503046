"""Goldens of information flow: every kernel and divergence on one layer, and HKD's terms on several."""

from adapter import Adapter

from potstill.objectives import InfoFlow
from potstill.schedules import at
from potstill.schemes import HKD
from potstill.types import Objective, Progress

SINGLE = (
    *("cosine_abs", "cosine_kl", "cosine_squared", "rbf_kl", "adaptive_rbf_kl", "cauchy_kl", "combined_combined"),
    *(f"student_t_{name}" for name in ("exponential", "jeffreys", "kagan", "kl")),
)


def flow(hyper, tensors):
    own = {name: value for name, value in hyper.items() if name.endswith(("_d", "_sigma"))}
    assert hyper["student"] == hyper["teacher"]
    assert hyper["eps"] == 1e-6
    divergence = "jeffreys" if hyper["loss"] == "combined" else hyper["loss"]
    return InfoFlow(hyper["student"], divergence, **own)


class Layers(Objective):
    """The terms of the scheme with their weights in one epoch: the deepest layer stands first."""

    def __init__(self, epoch):
        super().__init__()
        self.deepest, self.others = HKD().terms()
        self.weights = [at(term.weight, Progress(0, epoch, 100)) for term in (self.deepest, self.others)]

    def forward(self, student, teacher):
        sides = (student[0], teacher[0]), (student[1:], teacher[1:])
        built = (self.deepest.objective.build(), self.others.objective.build())
        return sum(w * one(*side) for w, one, side in zip(self.weights, built, sides, strict=True))


def layers(hyper, tensors):
    """Which epoch it is shows in the weights: the second is of 70 = 100 * 0.7."""
    assert hyper["student"] == hyper["teacher"] == hyper["loss"] == "combined"
    weights = [float(weight) for weight in hyper["weights"]]
    return next(found for epoch in range(20) if [(found := Layers(epoch)).weights[0], found.weights[1]] == weights[:2])


FLOW = {
    **{f"pkth_{name}": Adapter(flow, "f_s", "f_t") for name in SINGLE},
    "info_flow": Adapter(layers, "f_s", "f_t"),
}
