"""TAKD on CIFAR-100: ResNet-110 teaches ResNet-20, which teaches ResNet-8 (arXiv 1902.03393).

The worked example of the paper's repository, with its training: SGD at momentum 0.9 and weight decay 1e-4, 160 epochs
of batches of 128. The repository means to lower a rate of 0.1 twice; the first test compares the epoch with itself, so
it trains at 0.01 until three quarters of the run and at 0.001 then, and so does this recipe. Weight and temperature are
tuned for every step there; here they are those of `kd` throughout. Crops and flips are ours.

    potstill distill recipes/vision/takd_cifar100.py --data.root CIFAR100

Smoke: 128 images at 16x16, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)


def recipe(smoke: bool = False) -> Recipe:
    size = 16 if smoke else None
    return Recipe(
        title="Teacher assistants on CIFAR-100: ResNet-110 to ResNet-20 to ResNet-8",
        data=Data(name="cifar100", train_rows=128 if smoke else None, valid_rows=100 if smoke else None),
        teacher=Network("resnet110", mean=MEAN, std=STD, size=size),
        ladder=("resnet20",),
        student=Network("resnet8", mean=MEAN, std=STD, size=size),
        methods=("kd", "takd") if smoke else ("student", "kd", "takd"),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 160, batch_size=128, lr=0.01, weight_decay=1e-4, milestones=(0.75,)),
    )
