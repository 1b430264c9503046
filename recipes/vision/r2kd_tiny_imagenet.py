"""R2KD on Tiny ImageNet at 64 pixels as released: WRN-40-2 -> WRN-16-2, 240 epochs.

The released configuration (Seonghak35/R2KD): random crops of 64 with 8 pixels of padding, flips, ImageNet's mean and
std, batch 64, SGD with lr 0.05 divided by 10 after epochs 150, 180 and 210, weight decay 5e-4, CutMix, value and rank
weight 2, T = 4, a tenth pruned, 0.7 of the teacher in the blend. No published number stands here: none was read at its
source. The authors keep the best checkpoint; the result here is the last epoch, and the best stands beside it.

    potstill distill recipes/vision/r2kd_tiny_imagenet.py --data.root TINY_IMAGENET --teacher.checkpoint wrn_40_2.pth

Without a checkpoint the teacher is trained by the same protocol. Smoke: 256 images, 1 epoch.
"""

from potstill.data import USUAL, Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = USUAL["imagenet"].mean, USUAL["imagenet"].std


def recipe(smoke: bool = False) -> Recipe:
    return Recipe(
        title="R2KD on Tiny ImageNet: WRN-40-2 to WRN-16-2",
        data=Data(name="tiny_imagenet", train_rows=256 if smoke else None, valid_rows=200 if smoke else None),
        teacher=Network("wrn_40_2", mean=MEAN, std=STD),
        student=Network("wrn_16_2", mean=MEAN, std=STD),
        methods=(
            "student",
            "kd",
            "kd+cutmix=ce:0.1+r2kd(distance=kl,value_weight=0.9,rank=none,weight=1)",
            "r2kd",
            "r2kd(statistics=batch)",
            "r2kd(rank=soft)",
            "r2kd(augment=autoaugment,policy=imagenet)",
            "r2kd~shuffled",
        ),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 240),
    )
