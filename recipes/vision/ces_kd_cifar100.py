"""CES-KD (a reconstruction) on CIFAR-100: each image taught by one of ResNet-110, -56 and -20, student ResNet-8.

arXiv 2209.07606 has no public code, and neither its ladders nor its tables could be found: the networks are those that
teacher assistants are usually shown with, the training is RepDistiller's, and the method is our reading of the abstract
(potstill/schemes/ces_kd.py says what is whose). TAKD and DGKD on the same ladder are its neighbours; the last four are
its controls.

    potstill distill recipes/vision/ces_kd_cifar100.py --data.root CIFAR100

The ladder is trained first, each network from the one before. Smoke: 128 images at 16x16, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the protocol's, not measured on the data
CONTROLS = ("static", "anti", "random", "average")


def recipe(smoke: bool = False) -> Recipe:
    size = 16 if smoke else None
    return Recipe(
        title="CES-KD (reconstruction) on CIFAR-100: ResNet-110, -56 and -20 to ResNet-8",
        data=Data(name="cifar100", train_rows=128 if smoke else None, valid_rows=100 if smoke else None),
        teacher=Network("resnet110", mean=MEAN, std=STD, size=size),
        ladder=("resnet20",) if smoke else ("resnet56", "resnet20"),
        student=Network("resnet8", mean=MEAN, std=STD, size=size),
        methods=("takd", "ces_kd")
        if smoke
        else ("student", "kd", "takd", "dgkd", "ces_kd", *(f"{one}=ces_kd(select={one})" for one in CONTROLS)),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 240),
    )
