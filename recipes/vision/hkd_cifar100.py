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

from potstill.protocols import MEAN, STD, information_flow
from potstill.recipe import Recipe

METHODS = ("student", "kd", "hkd", "hkd+ce:1", "hkd+ce:1+kd:1", "hkd+ce:1~shuffled")


def recipe(smoke: bool = False) -> Recipe:
    return information_flow(
        "cifar100",
        "HKD on CIFAR-100: ResNet-18 to CNN-1 through CNN-1-A",
        METHODS[:1] + METHODS[2:4] if smoke else METHODS,
        mean=MEAN,
        std=STD,
        smoke=smoke,
    )
