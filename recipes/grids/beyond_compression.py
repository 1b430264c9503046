"""Knowledge distillation beyond model compression: nine methods on capacity gaps, wrong labels and rare classes.

    potstill bench beyond_compression --data.root CIFAR100 --jobs 8

Sarfraz, Arani, Zonooz, ICPR 2020, arXiv 2007.01922. Only its abstract was to be had: that there are nine methods of
four kinds, several capacity gaps, label noise and class imbalance of several severities. The list of the nine is our
reading, and the protocol is ours: CIFAR-100 as RepDistiller trains (240 epochs, three seeds, the last epoch is the
result, the best stands beside it); the gap runs from WRN-40-2 and ResNet-56 to smaller students and, as
self-distillation, to students of the same size; 20 to 80 % of the training labels flipped; exponential long tails of
10, 50 and 100, with the accuracy on the rarest third of the classes. Teachers are trained on the same spoiled data, and
validation images are always clean. BSS moves a quarter of a batch, as its authors do. FSP needs equal channels and is
left out of WRN-40-2 → WRN-16-1 and WRN-40-1. 21 pairs and conditions, 624 students; `--pairs` takes some.
"""

from dataclasses import replace

from potstill.grid import Grid
from potstill.protocols import NINE, conditions, repdistiller

GAPS = {
    "wrn_40_2": ("wrn_16_2", "wrn_16_1", "wrn_40_1", "wrn_40_2"),
    "resnet56": ("resnet20", "resnet8", "resnet56"),
}
SPOILED = ("wrn_16_2", "resnet20")
"""Students that learn from wrong labels and rare classes too."""
NARROW = ("wrn_16_1", "wrn_40_1")
"""Students with fewer channels than their teacher."""
SPELLED = {"bss": "bss=bss(size=16)"}


def grid(smoke: bool = False) -> Grid:
    found = {}
    for teacher, students in list(GAPS.items())[: 1 if smoke else 2]:
        for student in students[: 1 if smoke else None]:
            hard = ((0.4,), ()) if smoke else ((0.2, 0.4, 0.6, 0.8), (10, 50, 100)) if student in SPOILED else ()
            nine = [SPELLED.get(name, name) for name in NINE if name != "fsp" or student not in NARROW]
            for name, leaves in conditions(*hard).items():
                recipe = repdistiller(teacher, student, ("student", *nine), seeds=3, smoke=smoke)
                data = replace(recipe.data, **leaves)
                title = f"{recipe.title}, {name}"
                found[f"{teacher} → {student}, {name}"] = replace(recipe, data=data, title=title)
    return Grid(found, title="CIFAR-100 beyond compression", reference="kd")
