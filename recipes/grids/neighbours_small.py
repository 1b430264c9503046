"""The neighbouring vision systems at a size for two cores: R2KD, RTK, CES-KD and dual augmentation under one budget.

The data, the teacher and the student are those of cpu_small: 20 superclasses of CIFAR-100, the first 10,000 training
images at 16x16 pixels, ResNet-20 (30 epochs) to ResNet-8; students train for 3 epochs, three seeds, and are tested on
5,000 images. Between the two stands a ResNet-14, taught by the ResNet-20 for 8 epochs. Each system stands beside KD,
the lone student and its own shuffled teacher.

    potstill bench neighbours_small --data.root CIFAR100 --jobs 2

Three epochs show whether a system learns from its teacher; they do not rank systems. CKD has a table of its own
(ckd_budgets), information flow another (hkd_small), BSS, ONE and DML stand in beyond_small.
"""

from potstill.data import Data
from potstill.grid import Grid
from potstill.recipe import Assistant, Fit, Network, Recipe

METHODS = (
    "student",
    "kd",
    "icd",
    "dual+icd",
    "r2kd",
    "r2kd~shuffled",
    "soft=r2kd(rank=soft)",
    "afd",
    "rtk",
    "rtk~shuffled",
    "takd",
    "dgkd",
    "ces_kd",
    "ces_kd~shuffled",
    "average=ces_kd(select=average)",
)


def grid(smoke: bool = False) -> Grid:
    recipe = Recipe(
        title="Small CIFAR-100, the neighbouring systems: ResNet-20 to ResNet-8, 3 epochs",
        data=Data(
            name="cifar100",
            label="coarse_label",
            train_rows=400 if smoke else 10_000,
            valid_rows=200 if smoke else 5_000,
        ),
        teacher=Network("resnet20", size=16),
        student=Network("resnet8", size=16),
        assistants=(
            Assistant("resnet14", Network("resnet14", size=16), fit=Fit(epochs=1 if smoke else 8, evaluate_every=4)),
        ),
        methods=METHODS,
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 3, evaluate_every=3),
        teacher_fit=Fit(epochs=1 if smoke else 30, evaluate_every=5),
    )
    return Grid({"resnet20 → resnet8": recipe}, title=recipe.title, reference="kd")
