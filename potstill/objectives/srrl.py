"""SRRL: softmax regression representation learning (Yang et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.functional import full_precision, mean_of_rest
from potstill.types import Objective


class SRRL(Objective):
    r"""The student's embedding must please the teacher's own classifier.

    With $r$ a linear layer, batch norm and ReLU, and $W_t, b_t$ the teacher's classifier,

    $$L = \tfrac{1}{D_t} \| r(f_s) - f_t \|^2 + \tfrac{1}{K} \| W_t r(f_s) + b_t - z_t \|^2.$$

    Shapes: student embedding `[B, D_s]`; teacher `(embedding [B, D_t], logits [B, K])` -> `[B]`.

    The classifier is the teacher's `nn.Linear` from D_t to K; of several, the one that makes the logits. It is frozen,
    is no part of the state, and is read again when a run resumes.

    Defaults: weight 1 beside CE 1 and KD 1, the command of the reference (SimKD's repository). Raises ValueError for
    taps of other shapes and for a teacher without such a layer.

    Where we differ: nothing; the golden `srrl` pins value and gradient. The paper also offers the cross-entropy in
    place of the second part.
    """

    zero_at_match = False
    batch_statistics = True
    default_taps = ("embedding", "embedding,output")
    paper_terms = "ce:1+kd:1+srrl:1"
    matches = "features"
    needs_modules = True
    weight_from = "SimKD's repository"
    paper = (
        "Yang, Martinez, Bulat, Tzimiropoulos: Knowledge Distillation via Softmax Regression Representation Learning. "
        "ICLR 2021."
    )

    classifier_weight: Tensor
    classifier_bias: Tensor | None

    def __init__(self, student_width: int, classifier: nn.Linear):
        super().__init__()
        width = classifier.in_features
        self.projector = nn.Sequential(nn.Linear(student_width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        dtype = next(self.parameters()).dtype
        for name in ("weight", "bias"):
            value = getattr(classifier, name)
            frozen = None if value is None else value.detach().to(dtype, copy=True)
            self.register_buffer(f"classifier_{name}", frozen, persistent=False)

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        teachers = teacher if isinstance(teacher, tuple) else (teacher,)
        shapes = [list(value.shape) for value in (student, *teachers)]
        if len(shapes) != 3 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(
                f"srrl: expected a student embedding [B, D_s] and the teacher's embedding [B, D_t] and logits [B, K] "
                f"(address 'embedding,output'), got {shapes[0]} and {shapes[1:]}"
            )
        return cls(student.shape[1], find_classifier(*teachers, modules), **kw)

    def forward(
        self, student: Float[Tensor, "B D_s"], teacher: tuple[Float[Tensor, "B D_t"], Float[Tensor, "B K"]]
    ) -> Float[Tensor, "B"]:
        with full_precision(student):
            projected = self.projector(student.to(next(self.parameters()).dtype))
            logits = F.linear(projected, self.classifier_weight, self.classifier_bias)
            return _mse(projected, teacher[0]) + _mse(logits, teacher[1])


def find_classifier(embedding: Tensor, logits: Tensor, modules: Mapping[str, nn.Module]) -> nn.Linear:
    """The `nn.Linear` that leads from the embedding to the logits; of several that fit, the one that comes nearest."""
    wanted = (embedding.shape[1], logits.shape[1])
    fitting = [m for m in modules.values() if isinstance(m, nn.Linear) and (m.in_features, m.out_features) == wanted]
    if not fitting:
        raise ValueError(
            f"srrl: the teacher has no nn.Linear from its embedding ({wanted[0]}) to its answer ({wanted[1]} classes); "
            "it needs a live teacher that ends in one, and no label_map"
        )

    def error(layer: nn.Linear) -> float:
        with torch.no_grad(), full_precision(embedding):
            return float((layer(embedding.to(layer.weight.dtype)) - logits).abs().mean())

    return fitting[0] if len(fitting) == 1 else min(fitting, key=error)


def _mse(student: Tensor, teacher: Tensor) -> Tensor:
    return mean_of_rest(F.mse_loss(student, teacher.to(student.dtype), reduction="none"))
