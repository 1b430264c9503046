"""RTK on CIFAR-100, a reconstruction: WRN-40-2 -> WRN-16-2, 240 epochs, beside AFD, which it starts from.

Only the abstract of RTK (arXiv 2206.12788) is public. What is compared is our reading of it: student layers attend to
the teacher's, and the r keys of largest attention, or those above the uniform one, are matched. RepDistiller's protocol
and AFD's weights. No published number stands here.

    potstill distill recipes/vision/rtk_cifar100.py --data.root CIFAR100 --teacher.checkpoint wrn_40_2.pth

Without a checkpoint the teacher is trained by the same protocol. Smoke: 256 images, 1 epoch, four of the methods.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # the protocol's, not measured on the data


def recipe(smoke: bool = False) -> Recipe:
    main = ("student", "kd", "afd", "rtk", "rtk~shuffled")
    ablations = (
        "rtk(r=1)",
        "rtk(r=3)",
        "rtk(r=0,threshold=1.0)",
        "rtk(r=1,direction=teacher)",
        "rtk(direction=teacher)",
        "rtk(r=0,threshold=1.0,direction=teacher)",
    )
    return Recipe(
        title="RTK (reconstruction) on CIFAR-100: WRN-40-2 to WRN-16-2",
        data=Data(name="cifar100", train_rows=256 if smoke else None, valid_rows=200 if smoke else None),
        teacher=Network("wrn_40_2", mean=MEAN, std=STD),
        student=Network("wrn_16_2", mean=MEAN, std=STD),
        methods=main[1:] if smoke else (*main, *ablations),
        seeds=1 if smoke else 5,
        fit=Fit(epochs=1 if smoke else 240),
    )
