"""HKD on CIFAR-100, where it can be had offline: features alone, and with the labels for a classifier.

The pipeline is that of hkd_cifar10 with 100 classes; no published number stands for it. Third-party code for CIFAR-100
(SemCKD's RepDistiller) trains a classifier with HKD beside cross-entropy and KD (T = 4), all with weight 1: `hkd+ce:1`
and `hkd+ce:1+kd:1` here. That port differs from the method in what it compares (the stages, not the embedding) and has
a mistake that is not copied: its weight falls from layer to layer within a batch and never from epoch to epoch, and
no layer after the first gets it.

    potstill distill recipes/vision/hkd_cifar100.py --data.root CIFAR100 --out runs/hkd
    potstill evaluate runs/hkd --suite retrieval

Smoke: 640 images, 1 epoch, CNN-1-A as the teacher.
"""

from dataclasses import replace

from potstill.data import Data
from potstill.recipe import Assistant, Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # RepDistiller's
METHODS = ("student", "kd", "hkd", "hkd+ce:1", "hkd+ce:1+kd:1", "hkd+ce:1~shuffled")
ADAM = Fit(
    epochs=50, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.0, schedule="constant", drop_last=False
)


def recipe(smoke: bool = False) -> Recipe:
    def network(name: str) -> Network:
        return Network(name, mean=MEAN, std=STD)

    def fit(epochs: int, last: int = 0) -> Fit:
        """`last` more epochs at a tenth of the rate."""
        if smoke:
            return replace(ADAM, epochs=1)
        falls = {"schedule": "milestones", "milestones": (epochs / (epochs + last),)} if last else {}
        return replace(ADAM, epochs=epochs + last, **falls)

    auxiliary = network("cnn1_a")
    return Recipe(
        title="HKD on CIFAR-100: ResNet-18 to CNN-1 through CNN-1-A",
        data=Data(name="cifar100", train_rows=640 if smoke else None, valid_rows=200 if smoke else None),
        teacher=auxiliary if smoke else network("preact_resnet18_cifar"),
        student=network("cnn1"),
        assistants=(
            Assistant("by_labels", auxiliary, "student", fit=fit(50, 30)),
            Assistant("auxiliary", auxiliary, "ce:0+info_flow", start="by_labels", fit=fit(30, 10)),
        ),
        methods=METHODS[:1] + METHODS[2:4] if smoke else METHODS,
        seeds=1,
        fit=fit(50),
        teacher_fit=fit(50, 30),
    )
