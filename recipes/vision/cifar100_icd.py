"""ICD on CIFAR-100 by RepDistiller's protocol: WRN-40-2 -> WRN-16-2, 240 epochs.

Claim (arXiv 2407.11802, README of 4 September 2024): lone student 73.26, KD 74.92, ICD 74.99, ICD+KD 76.06 % top-1.

    potstill distill recipes/vision/cifar100_icd.py --data.root CIFAR100 --teacher.checkpoint wrn_40_2.pth

Without a checkpoint the teacher is trained by the same protocol. Smoke: 640 images, 1 epoch.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the protocol's, not measured on the data


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="ICD on CIFAR-100: WRN-40-2 to WRN-16-2",
        data=Data(name="cifar100", train_rows=640 if smoke else None, valid_rows=200 if smoke else None),
        teacher=Network("wrn_40_2", mean=MEAN, std=STD),
        student=Network("wrn_16_2", mean=MEAN, std=STD),
        methods=("student", "kd", "icd", "icd+kd"),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 240),
    )
