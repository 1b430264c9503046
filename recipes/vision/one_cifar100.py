"""ONE on CIFAR-100 as its authors train: three branches of a ResNet-32, 300 epochs.

SGD 0.1, divided by 10 after epochs 150 and 225, batch 128, weight decay 5e-4 (the released code's default; its script
for ResNet-32 says 1e-4). Beside it the lone student, mutual learning, and KD from a ResNet-110; `one-e` is the same
training with the whole ensemble as what answers.

    potstill distill recipes/vision/one_cifar100.py --data.root CIFAR100

Lan, Zhu, Gong, NeurIPS 2018, arXiv 1806.04606; code Lan1991Xu/ONE_NeurIPS2018. Smoke: 320 images, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # the authors' for every data set


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="ONE on CIFAR-100: ResNet-32 with three branches",
        data=Data(name="cifar100", train_rows=320 if smoke else None, valid_rows=100 if smoke else None),
        teacher=Network("resnet20" if smoke else "resnet110", mean=MEAN, std=STD),
        student=Network("resnet8" if smoke else "resnet32", mean=MEAN, std=STD),
        methods=("student", "kd", "dml", "one", "one-e=one(ensemble=True)"),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 300, batch_size=128, lr=0.1, milestones=(0.5, 0.75)),
    )
