"""Deep mutual learning on CIFAR-100: two ResNet-32 that teach each other, 200 epochs.

SGD 0.1, divided by 10 every 60 epochs, batch 64, as the paper says by memory (not checked against it); Nesterov's
momentum there, plain here. Beside it the lone student, three peers, and KD from a ResNet-110.

    potstill distill recipes/vision/dml_cifar100.py --data.root CIFAR100

Zhang, Xiang, Hospedales, Lu, CVPR 2018, arXiv 1706.00384. Smoke: 320 images, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="Deep mutual learning on CIFAR-100: ResNet-32",
        data=Data(name="cifar100", train_rows=320 if smoke else None, valid_rows=100 if smoke else None),
        teacher=Network("resnet20" if smoke else "resnet110", mean=MEAN, std=STD),
        student=Network("resnet8" if smoke else "resnet32", mean=MEAN, std=STD),
        methods=("student", "kd", "dml", "three=dml(peers=3)"),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 200, lr=0.1, milestones=(0.3, 0.6, 0.9)),
    )
