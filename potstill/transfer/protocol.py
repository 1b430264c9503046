"""How a linear probe is trained, and what it comes to. Letters in shapes: B batch, D width of the embedding, K classes.

The protocol is that of `transfer_student.py` in the code released with ICD (arXiv 2407.11802), September 2024.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from potstill.data import Augment, Images, Preprocess, Resident, first
from potstill.errors import did_you_mean
from potstill.hashing import hash_int
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.types import Batch

Arm = Literal["frozen", "drifting"]
VIEWS = 8
"""Views of each image that the frozen arm stores, where nothing else is said."""
LOOKED_AT = 4
"""Images that a network is looked at with."""
STATISTICS = {
    "stl10": Preprocess((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2712)),
    "tiny_imagenet": Preprocess((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
}
"""The released script's mean and standard deviation."""
SLOWER = ("MobileNetV2", "ShuffleV1", "ShuffleV2")
"""Networks whose probe the protocol trains with a smaller learning rate."""


@dataclass(frozen=True)
class Protocol:
    """How a probe is trained. The defaults are the released script's, but for arm and views.

    `views` fixed augmented views of each image are cycled over the epochs; with None every epoch has a view of its own,
    as released. `Protocol(arm="drifting", views=None)` is the released protocol in all.
    """

    arm: Arm = "frozen"
    epochs: int = 120
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75)
    augment: Augment = "crop-flip"
    views: int | None = VIEWS
    data_seed: int = 0
    evaluate_every: int = 10

    def __post_init__(self) -> None:
        if self.arm not in get_args(Arm):
            raise ValueError(f"unknown arm {self.arm!r}; {did_you_mean(self.arm, get_args(Arm))}")
        if self.views is not None and self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}; fresh gives every epoch a view of its own")
        _ = self.fit  # which checks the rest

    @property
    def fit(self) -> Fit:
        """The same for the engine."""
        return Fit(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            milestones=self.milestones,
            drop_last=False,
            evaluate_every=self.evaluate_every,
        )

    @property
    def shown(self) -> str:
        """What a network is shown: `plain` images, `fresh` views, or e.g. `8-views`."""
        if self.augment == "none":
            return "plain"
        return "fresh" if self.views is None else f"{self.views}-views"

    def describe(self) -> dict[str, Any]:
        """Plain values, as they come back from a JSON file."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Probed:
    """What a probe came to. Accuracies in percent; `history` has a row for every epoch that was evaluated.

    `drift` is how far the running means of batch norm moved, in their standard deviations, averaged over channels and
    layers; None in the frozen arm.
    """

    head: nn.Linear = field(repr=False)
    top1: float
    best_top1: float
    seconds: float
    drift: float | None
    history: list[dict[str, Any]] = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        found = {name: getattr(self, name) for name in ("top1", "best_top1", "seconds", "drift", "history")}
        return found | {"width": self.head.in_features}


@dataclass(frozen=True)
class Asked:
    """One probe: a network, the images, and how."""

    network: nn.Module
    train: Images
    valid: Images
    protocol: Protocol
    preprocess: Preprocess
    precision: Precision
    seed: int

    @property
    def device(self) -> torch.device:
        return self.train.images.device

    @property
    def batch(self) -> Batch:
        """A few images to look at the network with."""
        return first(self.train, LOOKED_AT, self.device)

    @cached_property
    def loader(self) -> Resident:
        """The training images: in an order of the seed's; where views are counted, with views that no seed changes."""
        protocol = self.protocol
        views = 1 if protocol.augment == "none" else protocol.views
        return Resident(
            self.train,
            protocol.batch_size,
            augment=protocol.augment,
            seed=hash_int(protocol.data_seed, self.seed),
            views=views,
            view_seed=None if views is None else protocol.data_seed,
            device=self.device,
            drop_last=False,
        )

    def head(self, width: int) -> nn.Linear:
        """A linear layer with weights from N(0, 0.01²) and biases of 0, the same on every device."""
        head = nn.Linear(width, len(self.train.classes))
        generator = torch.Generator().manual_seed(hash_int(self.seed, "head"))
        nn.init.normal_(head.weight, 0.0, 0.01, generator=generator)
        nn.init.zeros_(head.bias)
        return head.to(self.device)

    def checked(self, embedding: Tensor) -> Tensor:
        """The embedding, if it is one `[B, D]`."""
        if embedding.ndim != 2:
            raise ValueError(
                f"the embedding of {type(self.network).__name__} has shape {list(embedding.shape)}, expected [B, D]: "
                "its classifier reads something else than one vector per image"
            )
        return embedding
