"""R2KD: correlation distances, a pruned second teacher and augmented images (Kim et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from potstill.blend import Blend
from potstill.data.autoaugment import POLICIES
from potstill.errors import did_you_mean
from potstill.objectives import KD, CrossEntropy, RankDistance, ValueDistance
from potstill.pruning import STATISTICS, pruned
from potstill.scheme import Scene, Scheme
from potstill.tasks.augmented import AUGMENTED, KINDS, Augmented, Picked
from potstill.tasks.second import SecondView
from potstill.terms import Spec, Term
from potstill.types import MAIN, Source, Task

AUGMENTS = ("none", *KINDS, "cutmixpick", "cutmixpick_released")
CHOICES = {
    "augment": AUGMENTS,
    "distance": ("value", "kl"),
    "rank": ("hard", "soft", "none"),
    "policy": tuple(POLICIES),
    "statistics": STATISTICS,
}
"""What each of these options may be."""


@dataclass(frozen=True)
class R2KD(Scheme):
    r"""Cosine and rank distances to a teacher blended with a pruned copy of itself, on plain and on augmented images.

    $$L = \mathrm{CE}(y, z_s(x)) + \sum_{v \in \{x, x'\}} \Big( w_v L_{value}(z_s(v), \tilde z(v))
      + w_r L_{rank}(z_s(v), \tilde z(v)) \Big), \quad
      \tilde z = w z_t + (1 - w) z_p$$

    $z_p$ comes from a copy of the teacher in which, in every Conv2d and Linear by itself, the smallest tenth of the
    weights is zero; it is made once and not tuned. $x'$ is the batch once more, augmented on top of what the loader
    does; there is no label loss on it. The distances are the objectives `value_distance` and `rank_distance`.

    Defaults, all the released code's (for Tiny ImageNet): `augment=cutmix`, `rank=hard`, `prune=0.1`, `weight=0.7`,
    `temperature=4`, `value_weight=2`, `rank_weight=2` beside CE 1.

    - `augment`: `mixup` (Beta(0.2, 0.2)), `cutmix` (Beta(1, 1)), `cutout` (a hole of a quarter of the side: 8 of 32, 16
      of 64 pixels), `autoaugment` (with `policy=cifar10` or `imagenet`), each with one choice for the whole batch;
      `cutmixpick_released`, which scores the unmixed images and keeps 64 of them, so that with batches of 64 it is
      CutMix in another order; `cutmixpick`, ours: `pool` mixed batches are scored by the teacher and the rows of
      largest entropy kept; `none`.
    - `rank`: `hard` is the released loss, **which has no gradient**: what trains are CE and the value distance. `soft`
      is ours and differentiable. `none` leaves the term out.
    - `distance`: `value`, or `kl` for the usual KD loss in its place and with its weight. Plain KD on two views is
      `ce:0.1+r2kd(distance=kl,value_weight=0.9,rank=none,weight=1)`.
    - `prune=0` or `weight=1`: the teacher alone.
    - `statistics`: `running`, as a frozen network should be run; `batch`, as released: there the pruned copy stays in
      training mode, so that its batch norms use each batch's own mean and variance (which ties a sample's target to its
      batch, and under `fit.micro_batch` to its micro-batch).

    Where we differ: mixing and cutting happen on pixels before the normalisation, which comes to the same but for the
    rounding of Cutout's colour (the data's mean) to whole pixel values. AutoAugment starts from the pixels themselves,
    not from what is left of them after normalising and back. Paper and code have no configuration for CIFAR-100.

    Raises:
        ValueError: an unknown value of an option, a `prune` outside [0, 1), a `weight` outside [0, 1], a `temperature`
            that is not positive, a `pool` below 1; when it is built, a teacher without weights to prune (a cache).

    >>> [term.label for term in R2KD(augment="none").terms()]
    ['ce', 'value', 'rank']
    >>> [term.student for term in R2KD(rank="none").terms()[1:]]
    ['output@main', 'output@augmented']
    """

    augment: str = "cutmix"
    rank: str = "hard"
    distance: str = "value"
    prune: float = 0.1
    weight: float = 0.7
    temperature: float = 4.0
    value_weight: float = 2.0
    rank_weight: float = 2.0
    policy: str = "cifar10"
    pool: int = 2
    statistics: str = "running"
    paper: ClassVar[str] = (
        "Kim, Ham, Cho, Kim: Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network "
        "Pruning. TKDE 2024. arXiv:2311.13934"
    )
    matches: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        for option, known in CHOICES.items():
            if (given := getattr(self, option)) not in known:
                raise ValueError(f"r2kd: unknown {option} {given!r}; {did_you_mean(given, known)}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"r2kd: prune is a share of the weights, in [0, 1), got {self.prune}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"r2kd: weight is the teacher's share of the blend, between 0 and 1, got {self.weight}")
        if self.temperature <= 0:
            raise ValueError(f"r2kd: temperature must be positive, got {self.temperature}")
        if self.pool < 1:
            raise ValueError(f"r2kd: pool must be at least 1, got {self.pool}")

    @property
    def blended(self) -> bool:
        return self.prune > 0 and self.weight < 1

    def terms(self) -> tuple[Term, ...]:
        first = Spec.of(KD if self.distance == "kl" else ValueDistance, temperature=self.temperature)
        distances = [("value" if self.distance == "value" else "kd", first, self.value_weight)]
        if self.rank != "none":
            distances.append(("rank", Spec.of(RankDistance, rank=self.rank), self.rank_weight))
        guide = "blend" if self.blended else "teacher"
        found = [Term(CrossEntropy, name="ce")]
        for view in (MAIN,) if self.augment == "none" else (MAIN, AUGMENTED):
            for name, distance, weight in distances:
                label = name if view == MAIN else f"{name}_{view}"
                found.append(Term(distance, f"output@{view}", f"{guide}:output@{view}", weight=weight, name=label))
        return tuple(found)

    def sources(self, scene: Scene) -> Mapping[str, Source]:
        if not self.blended:
            return {}
        teacher = scene.teacher
        another = getattr(teacher, "with_module", None)
        if teacher.module is None or another is None:
            raise ValueError(
                "r2kd prunes a copy of the teacher's network, and what stands in for the teacher (a cache) has none; "
                "use the live network, or r2kd(weight=1)"
            )
        thin = another(pruned(teacher.module, self.prune, self.statistics))
        return {"blend": Blend((teacher, thin), (self.weight, 1 - self.weight))}

    def task(self, scene: Scene) -> Task:
        if self.augment == "none":
            return scene.examples.task
        if self.augment.startswith("cutmixpick"):
            return SecondView(Picked(self.pool, as_released=self.augment.endswith("released")), AUGMENTED)
        # The mean colour, which is 0 once the image is normalised, in the units of the pixels.
        prepared, scale = scene.student.preprocess, 1 if scene.examples.probe.main.input.is_floating_point() else 255
        mean = prepared.mean if prepared is not None else None
        fill = (0.0,) if mean is None else tuple(scale * value for value in mean)
        return SecondView(Augmented(self.augment, fill=fill, policy=self.policy), AUGMENTED)
