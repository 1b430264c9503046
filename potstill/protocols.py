"""Published protocols, as recipes: what a paper fixed, so that two grids cannot differ in it by accident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from potstill.data import Data
from potstill.recipe import Assistant, Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
"""Of CIFAR-100 as RepDistiller writes them, not as measured on the data."""
SLOW = ("MobileNetV2", "ShuffleV1", "ShuffleV2")
"""Students whose learning rate is 0.01 instead of 0.05."""
THIRTEEN = ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd")
"""The methods that ICD's paper compares with, in its order."""
NINE = ("kd", "bss", "fitnet", "fsp", "at", "sp", "rkd", "dml", "one")
"""The methods of *Knowledge Distillation Beyond Model Compression*, as far as its abstract tells them: response (KD),
boundary (BSS), representation (FitNet, FSP, AT), relations (SP, RKD), online (DML, ONE). Our reading: the printed list
was not seen."""


def conditions(noise: Sequence[float] = (), imbalance: Sequence[float] = ()) -> dict[str, dict[str, float]]:
    """Leaves of `Data` by the name of a condition, the clean data first.

    >>> conditions([0.4], [50])
    {'clean': {}, 'noise 0.4': {'label_noise': 0.4}, 'imbalance 50': {'imbalance': 50}}
    """
    found: dict[str, dict[str, float]] = {"clean": {}}
    found |= {f"noise {rate:g}": {"label_noise": rate} for rate in noise}
    return found | {f"imbalance {ratio:g}": {"imbalance": ratio} for ratio in imbalance}


def repdistiller(
    teacher: str, student: str, methods: Sequence[str], *, seeds: int = 5, smoke: bool = False, title: str = ""
) -> Recipe:
    """CIFAR-100 by RepDistiller's protocol: SGD, batch 64, 240 epochs, drops by 10 after 150, 180 and 210.

    Networks have the zoo's names; teachers are trained by the same protocol. Smoke: 320 images, 1 epoch, 1 seed.

    Source: Tian, Krishnan, Isola: Contrastive Representation Distillation. ICLR 2020. arXiv:1910.10699, and its code.

    >>> recipe = repdistiller("VGG13".lower(), "MobileNetV2", ["student", "kd"])
    >>> recipe.fit.lr, recipe.teacher_fit.lr
    (0.01, 0.05)
    """
    epochs = 1 if smoke else 240
    return Recipe(
        title=title or f"CIFAR-100: {teacher} to {student}",
        data=Data(name="cifar100", train_rows=320 if smoke else None, valid_rows=100 if smoke else None),
        teacher=Network(teacher, mean=MEAN, std=STD),
        student=Network(student, mean=MEAN, std=STD),
        methods=tuple(methods),
        seeds=1 if smoke else seeds,
        fit=Fit(epochs=epochs, lr=0.01 if student in SLOW else 0.05),
        teacher_fit=Fit(epochs=epochs, lr=0.01 if teacher in SLOW else 0.05),
    )


def compared(dkd_beta: float, *, fsp: bool) -> tuple[str, ...]:
    """The rows of the paper's table and what the field uses since, for one pair.

    `dkd_beta` is mdistiller's for the pair; `fsp` whether the two networks have equal channels, which FSP needs.
    """
    thirteen = (name for name in THIRTEEN if fsp or name != "fsp")
    own = ("icd", "icd+kd", "rrd", "rrd+kd", "crd+kd")
    return ("student", *thirteen, *own, f"dkd=dkd(beta={dkd_beta:g})", "dist")


def information_flow(
    data: str,
    title: str,
    methods: Sequence[str],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    smoke: bool = False,
) -> Recipe:
    """HKD's pipeline for 32x32 images: ResNet-18 teaches CNN-1-A, which learnt from labels first, and that CNN-1.

    Adam at 1e-3, batch 128: 50 epochs, and for the networks that teach some more at a tenth of the rate. Smoke: 640
    images, 1 epoch, CNN-1-A as the teacher.

    Source: Passalis, Tzelepi, Tefas: Heterogeneous Knowledge Distillation using Information Flow Modeling. CVPR 2020.
    arXiv:2005.00727, and its code.
    """
    adam = Fit(batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.0, schedule="constant", drop_last=False)

    def network(name: str) -> Network:
        return Network(name, mean=mean, std=std)

    def fit(epochs: int, last: int = 0) -> Fit:
        """`last` more epochs at a tenth of the rate."""
        if smoke:
            return replace(adam, epochs=1)
        falls = {"schedule": "milestones", "milestones": (epochs / (epochs + last),)} if last else {}
        return replace(adam, epochs=epochs + last, **falls)

    auxiliary = network("cnn1_a")
    return Recipe(
        title=title,
        data=Data(name=data, train_rows=640 if smoke else None, valid_rows=200 if smoke else None),
        teacher=auxiliary if smoke else network("preact_resnet18_cifar"),
        student=network("cnn1"),
        assistants=(
            Assistant("by_labels", auxiliary, "student", fit=fit(50, 30)),
            Assistant("auxiliary", auxiliary, "ce:0+info_flow", start="by_labels", fit=fit(30, 10)),
        ),
        methods=tuple(methods),
        seeds=1,
        fit=fit(50),
        teacher_fit=fit(50, 30),
    )
