"""Everything that a run needs, as plain values: hashable, printable, set leaf by leaf from the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from potstill.data.spec import Data
from potstill.models.foreign import brings_weights
from potstill.schedules import Constant, Cosine, Linear, Milestones, Schedule


@dataclass(frozen=True)
class Fit:
    """How to train. The defaults are RepDistiller's protocol for CIFAR-100."""

    epochs: int = 240
    """Passes over the training data."""
    batch_size: int = 64
    """Samples per optimizer step, over all ranks."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Stochastic gradient descent with momentum, or AdamW."""
    lr: float = 0.05
    """Base learning rate (the protocol uses 0.01 for MobileNet and ShuffleNet students)."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 5e-4
    """Weight decay on all trained parameters, objectives' heads included."""
    schedule: Literal["milestones", "cosine", "linear", "constant", "plateau"] = "milestones"
    """How the learning rate falls; cosine and linear: to 0. plateau: each time the watched accuracy (data.watched) has
    not risen for `patience` evaluations, the best weights come back and the rate is divided by 10; the third time the
    run ends with them."""
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    """Fractions of the run after which the rate is divided by 10."""
    warmup: float = 0.0
    """Fraction of the run that warms up linearly (cosine and linear only)."""
    patience: int = 50
    """Evaluations without a better one that make a plateau (plateau only)."""
    clip: float | None = None
    """Largest norm of the whole gradient."""
    micro_batch: int | None = None
    """Most samples that run at once; larger batches are accumulated, with the same gradient."""
    shard: bool = False
    """Divide weights, gradients and optimizer state of the trained networks among the ranks (FSDP2)."""
    drop_last: bool = True
    """Leave out the last incomplete batch of an epoch."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, evaluated and exported instead of the last ones."""
    evaluate_every: int = 1
    """Evaluate after this many epochs (and always after the last)."""
    checkpoint_seconds: float = 60.0
    """Save a checkpoint at least this often (one process)."""
    checkpoint_steps: int | None = None
    """Save a checkpoint after every so many steps as well."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name} must be at least 1, got {getattr(self, name)}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"fit.micro_batch must be at least 1, got {self.micro_batch}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"fit.clip must be positive, got {self.clip}; leave it out to clip nothing")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"fit.{name} must lie in [0, 1), got {getattr(self, name)}")
        if any(not 0 < point <= 1 for point in self.milestones):
            raise ValueError(f"fit.milestones are fractions of the run, between 0 and 1, got {self.milestones}")
        if self.weight_decay < 0:
            raise ValueError(f"fit.weight_decay must not be negative, got {self.weight_decay}")
        if self.lr <= 0:
            raise ValueError(f"fit.lr must be positive, got {self.lr}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"fit.ema must lie between 0 and 1, got {self.ema}")

    def learning_rate(self) -> Schedule:
        """The factor on `lr` as a function of progress."""
        if self.schedule == "cosine":
            return Cosine(self.warmup)
        if self.schedule == "linear":
            return Linear(self.warmup)
        return Milestones(self.milestones) if self.schedule == "milestones" else Constant()


@dataclass(frozen=True)
class Network:
    """A network of the run by name."""

    name: str
    """A model of the zoo (`potstill list models` names them), timm:NAME, or transformers:NAME_OR_FOLDER."""
    checkpoint: Path | None = None
    """Weights to start from: safetensors or a .pth that holds only tensors. A teacher with one is not trained."""
    pretrained: bool = False
    """Fetch the hub's weights for a timm: or transformers: name (a local folder's are always loaded). A teacher with
    them is not trained."""
    width: int | None = None
    """Width, for models that take one (small_cnn)."""
    depth: int | None = None
    """Depth, for models that take one (small_cnn)."""
    mean: tuple[float, ...] | None = None
    """Mean that its inputs are normalised with, in [0, 1]; the data's own when left out."""
    std: tuple[float, ...] | None = None
    """Standard deviation that its inputs are normalised with."""
    size: int | None = None
    """Resize its inputs to this many pixels a side."""
    outputs: int | None = None
    """How many classes it answers with, where these are not the classes of the data."""
    label_map: tuple[int, ...] | None = None
    """For each class of the data, which of its outputs means it."""
    cache: Path | None = None
    """A folder that `potstill cache` wrote, of the teacher: students learn from what it says, and the teacher itself is
    only checked and evaluated."""
    budget: int | None = None
    """How many calls the teacher takes: it is asked once about each of so many training images, before the first
    student, and students learn from these answers and these images (data.subset) alone."""

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"teacher.budget must be at least 1, got {self.budget}")

    @property
    def taught(self) -> bool:
        """It comes with trained weights (a checkpoint, the hub's, a local folder's): as a teacher it is not trained."""
        return self.checkpoint is not None or brings_weights(self.name, self.pretrained)


@dataclass(frozen=True)
class Assistant:
    """Another teacher: trained after the recipe's own (or loaded), before any student."""

    name: str
    """What terms and schemes call it."""
    network: Network
    """Which one; with weights it is not trained."""
    method: str = "kd"
    """How it is trained; `student` is by the labels alone."""
    teacher: str = "teacher"
    """Who teaches it: `teacher`, or the name of an assistant before it."""
    start: str | None = None
    """Begin with the weights of an assistant before it, of the same network; at random when left out."""
    fit: Fit | None = None
    """How it is trained; like the teacher when left out."""


@dataclass(frozen=True)
class Recipe:
    """One pair of networks, one data set, the methods to compare and the seeds to repeat them with."""

    data: Data = field(default_factory=Data)
    """What to learn from."""
    teacher: Network = field(default_factory=lambda: Network("resnet20"))
    """The large network."""
    student: Network = field(default_factory=lambda: Network("resnet8"))
    """The small network."""
    assistants: tuple[Assistant, ...] = ()
    """Networks between the two, or further teachers, in the order in which they are trained: from strong to weak."""
    ladder: tuple[str, ...] = ()
    """Short for assistants that are distilled one from the next, strong to weak, e.g. resnet56 resnet20."""
    methods: tuple[str, ...] = ("student", "icd")
    """What to compare, e.g. student kd icd "icd+kd:0.5" icd~shuffled."""
    seeds: int = 1
    """How often each method is repeated."""
    fit: Fit = field(default_factory=Fit)
    """How students are trained."""
    teacher_fit: Fit | None = None
    """How the teacher is trained when it has no checkpoint; like the students when left out."""
    title: str = ""
    """One line for the report."""

    def training_of(self, one: Assistant | None = None) -> Fit:
        """How an assistant is trained; the teacher when left out."""
        return (one.fit if one else None) or self.teacher_fit or self.fit
