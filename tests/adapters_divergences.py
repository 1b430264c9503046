"""Goldens of the divergences of language distillation: means over the positions that have a label."""

from adapter import Adapter

from potstill.functional import log_probabilities
from potstill.objectives import JSD, TVD, ForwardKL, ReverseKL, SkewKL, SkewReverseKL, SymmetricKL


def at_labels(rewritten):
    """The reference divides by the number of positions whose label is not -100; what it leaves out gets no gradient.

    `[B, T, V]` becomes the rows that count, of inputs and of gradients alike. Without labels TRL divides the sum by
    the first dimension, so that a row of `T` positions is a unit.
    """
    case = dict(rewritten)
    labels = case.pop("in.labels", None)
    if labels is None:
        positions = case["in.y_s"].shape[1]
        case["out.loss"] = case["out.loss"] / positions
        case["grad.in.y_s"] = case["grad.in.y_s"] / positions
        return case
    counts = labels != -100
    assert not case["grad.in.y_s"][~counts].any()
    return case | {name: case[name][counts] for name in ("in.y_s", "in.y_t", "grad.in.y_s")}


def without_entropy(objective, share=1.0):
    """DistiLLM's forward divergences leave out the teacher's entropy: the value less a constant, the same gradient."""

    def add(module, sides, losses):
        teacher = log_probabilities(sides[1])
        return losses - share * (teacher.exp() * teacher).sum(-1)

    objective.register_forward_hook(add)
    return objective


def divergence(build):
    return Adapter(build, "y_s", "y_t", rewrite=at_labels)


DIVERGENCES = {
    "forward_kl": divergence(lambda hyper, tensors: ForwardKL(hyper["temperature"])),
    "reverse_kl": divergence(lambda hyper, tensors: ReverseKL(hyper["temperature"])),
    "gjsd": divergence(lambda hyper, tensors: JSD(hyper["beta"], hyper["temperature"])),
    "distillm_forward_kl": divergence(lambda hyper, tensors: without_entropy(ForwardKL())),
    "distillm_reverse_kl": divergence(lambda hyper, tensors: ReverseKL()),
    "distillm_symmetric_kl": divergence(
        lambda hyper, tensors: without_entropy(SymmetricKL(hyper["lam"]), 1 - hyper["lam"])
    ),
    "distillm_js_distance": divergence(lambda hyper, tensors: JSD(1 - hyper["lam"])),
    "distillm_skewed_forward_kl": divergence(lambda hyper, tensors: without_entropy(SkewKL(hyper["lam"]))),
    "distillm_skewed_reverse_kl": divergence(lambda hyper, tensors: SkewReverseKL(hyper["lam"])),
    "distillm_tv_distance": divergence(lambda hyper, tensors: TVD()),
}
