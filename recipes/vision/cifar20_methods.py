"""Every method on a small CIFAR-100, each beside its own shuffled teacher: what does it take from the teacher?

20 superclasses, the first 10,000 training and 5,000 test images, seen at 16x16 pixels so that two cores get through it;
ResNet-20 (30 epochs) teaches ResNet-8 for 5 epochs with RepDistiller's optimiser and its drops at the same fractions of
the run. A method that does no better with its teacher than with a shuffled one takes nothing from it. Five epochs are
short: the table tells whether a method works, not which is the best.

    potstill distill recipes/vision/cifar20_methods.py --data.root ../shared/data/cifar100

Measured results: docs/benchmarks.md. About 3.5 hours on one core.
"""

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe

METHODS = (
    *("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd"),  # ICD's thirteen
    *("icd", "icd+kd", "rrd", "kdsvd", "itrd", "wsld", "srrl", "ega"),
    *("dkd", "dist", "reviewkd", "ofd", "simkd", "semckd", "afd", "ls_kd", "ls_dkd"),
)


def recipe(smoke: bool = False) -> Recipe:
    names = METHODS[:3] if smoke else METHODS
    return Recipe(
        title="Every method on a small CIFAR-100: 20 superclasses at 16x16, ResNet-20 to ResNet-8, 5 epochs",
        data=Data(
            name="cifar100",
            label="coarse_label",
            train_rows=400 if smoke else 10_000,
            valid_rows=200 if smoke else 5_000,
        ),
        teacher=Network("resnet20", size=16),
        student=Network("resnet8", size=16),
        methods=("student", *names, *(f"{name}~shuffled" for name in names)),
        seeds=1 if smoke else 3,
        fit=Fit(epochs=1 if smoke else 5),
        teacher_fit=Fit(epochs=1 if smoke else 30),
    )
