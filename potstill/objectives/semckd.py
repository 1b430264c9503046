"""SemCKD: cross-layer distillation with semantic calibration (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from potstill.connectors import Bottleneck, check_maps, to_smaller
from potstill.functional import as_tuple, at_least_float32, full_precision, gram, mean_of_rest
from potstill.types import Objective


class SemCKD(Objective):
    r"""Every student layer learns from every teacher layer, by an attention that is learnt too.

    $$L_i = \frac{1}{S} \sum_{s,t} a_{ist} \, \tfrac{1}{CHW} \| r_{st}(F_s) - F_t \|_2^2, \quad
      a_{is} = softmax_t(\langle q_{is}, k_{it} \rangle / \tau).$$

    $q_{is}$ and $k_{it}$ are L2-normalised two-layer perceptrons of sample i's row of similarities
    $F F^\top$ (B wide), $r_{st}$ is 1x1, 3x3, 1x1 convolutions, `2 C_t` wide inside; the larger map is pooled.

    Shapes: tuples of maps `[B, C, H, W]`, S of the student and T of the teacher -> `[B]`. **B must always be
    `batch_size`**, the global batch: it is the width of the perceptrons. So drop a smaller last batch.

    Defaults: `factor=4` (queries B / 4 wide), `temperature=1`, all stages, and CE 1 + KD 1 + SemCKD 400, the authors'
    (ImageNet 50). Raises ValueError for taps that are no maps, a batch smaller than `factor`, and, when run, another
    batch size.

    Where we differ: the released code pools to squares, and divides by a norm that may be zero; the golden `semckd`
    pins value and gradient.
    """

    scope = "batch"
    zero_at_match = False
    batch_statistics = True
    default_weight = 400.0
    default_taps = ("stages", "stages")
    paired = False
    paper_terms = "ce:1+kd:1+semckd:400"
    matches = "features"
    weight_from = "the authors' code"
    paper = (
        "Chen, Mei, Zhang, Wang, Wang, Feng, Chen: Cross-Layer Distillation with Semantic Calibration. AAAI 2021. "
        "arXiv:2012.03236"
    )

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        batch_size: int,
        factor: int = 4,
        temperature: float = 1.0,
    ):
        super().__init__()
        if not 1 <= factor <= batch_size:
            raise ValueError(f"semckd: factor must lie between 1 and the batch size of {batch_size}, got {factor}")
        if temperature <= 0:
            raise ValueError(f"semckd: temperature must be positive, got {temperature}")
        self.batch_size, self.temperature = batch_size, temperature
        width = batch_size // factor
        self.queries = nn.ModuleList(_perceptron(batch_size, width) for _ in student_channels)
        self.keys = nn.ModuleList(_perceptron(batch_size, width) for _ in teacher_channels)
        self.projectors = nn.ModuleList(
            nn.ModuleList(Bottleneck(ours, 2 * theirs, theirs, activated=False) for theirs in teacher_channels)
            for ours in student_channels
        )

    @classmethod
    def sized(cls, student, teacher, data, modules, **kw):
        ours, theirs = as_tuple(student), as_tuple(teacher)
        check_maps("semckd", ours, theirs)
        return cls([x.shape[1] for x in ours], [x.shape[1] for x in theirs], data.batch_size, **kw)

    def forward(
        self,
        student: Float[Tensor, "B C_s H_s W_s"] | tuple[Float[Tensor, "B _ _ _"], ...],
        teacher: Float[Tensor, "B C_t H_t W_t"] | tuple[Float[Tensor, "B _ _ _"], ...],
    ) -> Float[Tensor, "B"]:
        ours, theirs = as_tuple(student), as_tuple(teacher)
        if len(ours[0]) != self.batch_size:
            raise ValueError(
                f"semckd: a batch of {len(ours[0])}, but its attention was built for {self.batch_size}; drop the "
                "smaller last batch"
            )
        with full_precision(ours[0]):
            queries = _attend(self.queries, ours)
            keys = _attend(self.keys, theirs)
            attention = (torch.einsum("bsd,btd->bst", queries, keys) / self.temperature).softmax(-1)
        if ours[0].device.type == "cpu":  # where convolutions run faster so
            ours, theirs = ([x.contiguous(memory_format=torch.channels_last) for x in side] for side in (ours, theirs))
        losses = [
            attention[:, s, t] * self._distance(s, t, *to_smaller(one, other))
            for s, one in enumerate(ours)
            for t, other in enumerate(theirs)
        ]
        return torch.stack(losses).sum(0) / len(ours)

    def _distance(self, s: int, t: int, student: Tensor, teacher: Tensor) -> Tensor:
        projected = at_least_float32(self.projectors[s][t](student))  # ty: ignore[not-subscriptable]
        return mean_of_rest(F.mse_loss(projected, teacher.to(projected.dtype), reduction="none"))


def _perceptron(batch_size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _attend(perceptrons: nn.ModuleList, maps: tuple[Tensor, ...]) -> Tensor:
    """Queries or keys `[B, layers, D]` from the similarities of the samples in each layer."""
    found = []
    for perceptron, value in zip(perceptrons, maps, strict=True):
        similarities = gram(value).to(next(perceptron.parameters()).dtype)
        found.append(F.normalize(perceptron(similarities), dim=1))
    return torch.stack(found, 1)
