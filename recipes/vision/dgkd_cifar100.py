"""DGKD on CIFAR-100: plain networks of 10, 8, 6 and 4 layers teach one of 2 layers at once (arXiv 2009.08825).

Networks, temperature, weight, the one expert that is dropped in each step and the training are the released code's
defaults: SGD at momentum 0.9, weight decay 1e-4, a constant rate of 0.01, 160 epochs of batches of 128, no
augmentation. That code is given trained assistants; here each learns by KD from the one before, as TAKD's do. Its
distillation loss is 100 times as small as ours, because it averages over the classes too.

    potstill distill recipes/vision/dgkd_cifar100.py --data.root CIFAR100

Smoke: 128 images, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="Densely guided distillation on CIFAR-100: plain networks of 10, 8, 6 and 4 layers to one of 2",
        data=Data(
            name="cifar100", augment="none", train_rows=128 if smoke else None, valid_rows=100 if smoke else None
        ),
        teacher=Network("plane10", mean=MEAN, std=STD),
        ladder=("plane8", "plane6", "plane4"),
        student=Network("plane2", mean=MEAN, std=STD),
        methods=("takd", "dgkd") if smoke else ("student", "kd", "takd", "dense=dgkd(drop=0)", "dgkd"),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 160, batch_size=128, lr=0.01, weight_decay=1e-4, schedule="constant"),
    )
