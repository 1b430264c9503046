"""R2KD on CIFAR-100: WRN-40-2 -> WRN-16-2, 240 epochs, with the paper's ablations as methods.

The paper reports CIFAR-100, but its configuration is not released. Our reading: the released weights (those for Tiny
ImageNet) in RepDistiller's protocol. No published number stands here: none was read at its source.

    potstill distill recipes/vision/r2kd_cifar100.py --data.root CIFAR100 --teacher.checkpoint wrn_40_2.pth

Without a checkpoint the teacher is trained by the same protocol. Smoke: 256 images, 1 epoch, four of the methods.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the protocol's, not measured on the data
KL = "distance=kl,value_weight=0.9,rank=none,weight=1"
AUGMENTS = ("mixup", "cutmix", "cutout", "autoaugment", "cutmixpick")


def recipe(smoke: bool = False) -> Recipe:
    main = ("student", "kd", "r2kd", "r2kd~shuffled")
    terms = (
        "r2kd(rank=none)",
        "r2kd(rank=soft)",
        "r2kd(distance=kl,rank=none)",
        "r2kd(augment=none)",
        "r2kd(weight=1)",
    )
    rates = tuple(f"r2kd(prune={rate})" for rate in (0.3, 0.5, 0.7))
    weights = tuple(f"r2kd(weight={weight})" for weight in (0.5, 0.9))
    views = tuple(f"r2kd(augment={augment})" for augment in AUGMENTS if augment != "cutmix")
    views += tuple(f"kd+{augment}=ce:0.1+r2kd(augment={augment},{KL})" for augment in AUGMENTS)
    return Recipe(
        title="R2KD on CIFAR-100: WRN-40-2 to WRN-16-2",
        data=Data(name="cifar100", train_rows=256 if smoke else None, valid_rows=200 if smoke else None),
        teacher=Network("wrn_40_2", mean=MEAN, std=STD),
        student=Network("wrn_16_2", mean=MEAN, std=STD),
        methods=main if smoke else (*main, *terms, *rates, *weights, *views),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 240),
    )
