"""The comparison at a size that two cores finish in one to two hours: ICD's claim on a small CIFAR-100.

20 superclasses, the first 10,000 training images and all 10,000 test images, seen at 16x16 pixels; ResNet-20 (30
epochs) teaches ResNet-8 for 12 epochs with RepDistiller's optimiser and its drops at the same fractions of the run.
Five seeds for the lone student, KD, ICD, ICD+KD and CRD, which decide; three for the others, which say where they are.

    potstill bench cpu_small --data.root CIFAR100 --jobs 2

Measured results: docs/benchmarks.md.
"""

from potstill.data import Data
from potstill.grid import Grid
from potstill.recipe import Fit, Network, Recipe

DECIDED = ("student", "kd", "icd", "icd+kd", "crd")
OTHERS = ("at", "sp", "rkd", "pkt", "vid", "dkd", "dist", "rrd")


def grid(smoke: bool = False) -> Grid:
    methods = ("student", "kd", "icd") if smoke else (*DECIDED, *OTHERS)
    recipe = Recipe(
        title="Small CIFAR-100: 20 superclasses at 16x16, ResNet-20 to ResNet-8, 12 epochs",
        data=Data(
            name="cifar100",
            label="coarse_label",
            train_rows=400 if smoke else 10_000,
            valid_rows=200 if smoke else None,
        ),
        teacher=Network("resnet20", size=16),
        student=Network("resnet8", size=16),
        methods=methods,
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 12, evaluate_every=3),
        teacher_fit=Fit(epochs=1 if smoke else 30, evaluate_every=5),
    )
    return Grid({"resnet20 → resnet8": recipe}, title=recipe.title, seeds={} if smoke else dict.fromkeys(OTHERS, 3))
