"""BSS on CIFAR-100 as AberHu's Knowledge-Distillation-Zoo trains it: ResNet-110 → ResNet-20, 200 epochs.

SGD 0.1, divided by 10 after epochs 100 and 150, batch 128, weight decay 1e-4, 32 samples moved a batch; Nesterov's
momentum there, plain here. `bss+kd` adds KD at T 3 on the images as they are, as the authors do; `bss~shuffled` hears
a teacher that answers about other samples.

    potstill distill recipes/vision/bss_cifar100.py --data.root CIFAR100

Heo, Lee, Yun, Choi, AAAI 2019, arXiv 1805.05532; code bhheo/BSS_distillation. Smoke: 320 images, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="BSS on CIFAR-100: ResNet-110 to ResNet-20",
        data=Data(name="cifar100", train_rows=320 if smoke else None, valid_rows=100 if smoke else None),
        teacher=Network("resnet20" if smoke else "resnet110", mean=MEAN, std=STD),
        student=Network("resnet8" if smoke else "resnet20", mean=MEAN, std=STD),
        methods=("student", "kd", "bss", "bss+kd=bss+kd(temperature=3):0.11", "bss~shuffled"),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 200, batch_size=128, lr=0.1, milestones=(0.5, 0.75), weight_decay=1e-4),
    )
