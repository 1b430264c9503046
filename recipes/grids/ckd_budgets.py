"""Accuracy against the teacher's call budget at a size for two cores: CKD against KD and RKD, from 500 to 5,000 calls.

20 superclasses of CIFAR-100 at 16x16 pixels; one ResNet-20, trained on the first 10,000 training images (the teacher of
cpu_small), serves all budgets and is asked once about each of N of them. ResNet-8 students see these N images alone, a
fifth of them watched, with the schedule of CKD's released code (arXiv 2311.02253) made shorter: a plateau is 10
evaluations instead of 50, and there are at most 40 of ⌈0.8 N / 64⌉ steps instead of 1,000. Three seeds, which differ
in initial weights and in order; the N images, and what the teacher said of them, are the same. 5,000 test images.

    potstill bench ckd_budgets --data.root CIFAR100 --jobs 2
"""

from potstill.data import Data
from potstill.grid import Grid
from potstill.recipe import Fit, Network, Recipe

BUDGETS = (500, 1_000, 2_000, 5_000)
METHODS = ("student", "kd=ce:1+kd:1", "rkd=black_box(of=rkd)", "ckd", "ckd~shuffled")


def grid(smoke: bool = False) -> Grid:
    title = "Small CIFAR-100 with few teacher calls: ResNet-20 to ResNet-8"
    return Grid(
        {f"{budget} calls": of(100 if smoke else budget, smoke) for budget in BUDGETS[: 1 if smoke else None]},
        title=title,
        reference="ckd",
        notes=("The result is the weights of the best watched accuracy, not those of the last epoch.",),
    )


def of(budget: int, smoke: bool) -> Recipe:
    return Recipe(
        title=f"Small CIFAR-100, ResNet-20 to ResNet-8, {budget:,} teacher calls",
        data=Data(
            name="cifar100",
            label="coarse_label",
            train_rows=400 if smoke else 10_000,
            valid_rows=200 if smoke else 5_000,
            watched=0.2,
        ),
        teacher=Network("resnet20", size=16, budget=budget),
        student=Network("resnet8", size=16),
        methods=METHODS,
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 40, schedule="plateau", patience=10, drop_last=False),
        teacher_fit=Fit(epochs=1 if smoke else 30, evaluate_every=5),
    )
