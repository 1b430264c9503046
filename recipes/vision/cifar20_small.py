"""The small CIFAR-100 experiment: does ICD help a ResNet-8, on two cores, in an afternoon?

20 superclasses, 10,000 training and 5,000 test images (class-balanced prefixes), ResNet-20 -> ResNet-8, 30 epochs,
RepDistiller's optimiser with its drops at the same fractions of the run (62.5, 75, 87.5 %). The control is ICD with a
shuffled teacher: what a method gains over it comes from the teacher and not from the extra loss.

    potstill distill recipes/vision/cifar20_small.py --data.root ../shared/data/cifar100

Measured results: docs/benchmarks.md.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="Small CIFAR-100 experiment: 20 superclasses, ResNet-20 to ResNet-8",
        data=Data(
            name="cifar100",
            label="coarse_label",
            train_rows=400 if smoke else 10_000,
            valid_rows=200 if smoke else 5_000,
        ),
        teacher=Network("resnet20"),
        student=Network("resnet8"),
        methods=("student", "kd", "icd", "icd+kd", "icd~shuffled"),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 30),
    )
