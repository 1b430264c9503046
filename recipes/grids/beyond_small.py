"""Beyond compression at a size that one core finishes in about three quarters of an hour: nine methods, wrong labels
and rare classes.

20 superclasses of CIFAR-100, seen at 16x16 pixels; ResNet-20 (10 epochs) teaches ResNet-8 for 4 epochs, two seeds, on
about 3,000 images: clean, with 40 and 80 % of the labels flipped, and with a long tail of 50 (what is left of 10,000).
Teachers learn from the same spoiled data; the 2,000 test images are clean. The full size and where the list of the
nine comes from: beyond_compression.

    potstill bench beyond_small --data.root CIFAR100

Short runs of two seeds: they show which method falls how far, not which is the best.
"""

from potstill.data import Data
from potstill.grid import Grid
from potstill.protocols import NINE, conditions
from potstill.recipe import Fit, Network, Recipe

SPELLED = {"bss": "bss=bss(size=8)"}


def grid(smoke: bool = False) -> Grid:
    def recipe(name: str, leaves: dict[str, float]) -> Recipe:
        rows = 400 if smoke else 10_000 if "imbalance" in leaves else 3_000
        data = Data(
            name="cifar100",
            label="coarse_label",
            train_rows=rows,
            valid_rows=200 if smoke else 2_000,
            label_noise=leaves.get("label_noise", 0.0),
            imbalance=leaves.get("imbalance", 1.0),
        )
        return Recipe(
            title=f"Small CIFAR-100, {name}",
            data=data,
            teacher=Network("resnet20", size=16),
            student=Network("resnet8", size=16),
            methods=("student", *(SPELLED.get(method, method) for method in NINE)),
            seeds=1 if smoke else 2,
            fit=Fit(epochs=1 if smoke else 4, batch_size=32),
            teacher_fit=Fit(epochs=1 if smoke else 10, batch_size=32, evaluate_every=1 if smoke else 5),
        )

    asked = conditions((), (10,)) if smoke else conditions((0.4, 0.8), (50,))
    pairs = {f"resnet20 → resnet8, {name}": recipe(name, leaves) for name, leaves in asked.items()}
    return Grid(pairs, title="Small CIFAR-100 beyond compression", reference="kd")
