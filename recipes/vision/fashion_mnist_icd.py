"""ICD on Fashion-MNIST: ResNet-20 -> ResNet-8 on 28x28 grey images, RepDistiller's optimiser, 30 epochs.

No published claim: a second real data set, small enough for a laptop.

    potstill distill recipes/vision/fashion_mnist_icd.py --data.root FASHION_MNIST

Smoke: 1,000 images, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="ICD on Fashion-MNIST: ResNet-20 to ResNet-8",
        data=Data(name="fashion_mnist", train_rows=1_000 if smoke else None, valid_rows=500 if smoke else None),
        teacher=Network("resnet20"),
        student=Network("resnet8"),
        methods=("student", "kd", "icd", "icd+kd"),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 30),
    )
