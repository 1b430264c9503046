"""Information flow (HKD) at a size for two cores: ResNet-14 to CNN-1 through CNN-1-A, 20 superclasses of CIFAR-100.

The first 5,000 training images at 32x32 pixels, 2,000 test images, Adam at 1e-3 as published. The teacher learns from
labels for 10 epochs; so does CNN-1-A, which then learns the teacher's embedding for 6 epochs and is the auxiliary
teacher of CNN-1 (10 epochs, three seeds). `hkd` learns no classifier: its features are measured by retrieval.

    potstill bench hkd_small --data.root CIFAR100 --jobs 2 --out runs/hkd_small
    potstill evaluate runs/hkd_small --suite retrieval
"""

from dataclasses import replace

from potstill.data import Data
from potstill.grid import Grid
from potstill.recipe import Assistant, Fit, Network, Recipe

ADAM = Fit(
    epochs=10, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.0, schedule="constant", evaluate_every=5
)
METHODS = ("student", "kd", "hkd", "hkd~shuffled", "last=hkd(initial=0)", "hkd+ce:1", "hkd+ce:1~shuffled")


def grid(smoke: bool = False) -> Grid:
    def fit(epochs: int) -> Fit:
        return replace(ADAM, epochs=1 if smoke else epochs)

    auxiliary = Network("cnn1_a")
    recipe = Recipe(
        title="Small CIFAR-100, information flow: ResNet-14 to CNN-1 through CNN-1-A",
        data=Data(
            name="cifar100",
            label="coarse_label",
            train_rows=400 if smoke else 5_000,
            valid_rows=200 if smoke else 2_000,
        ),
        teacher=Network("resnet14"),
        student=Network("cnn1"),
        assistants=(
            Assistant("by_labels", auxiliary, "student", fit=fit(10)),
            Assistant("auxiliary", auxiliary, "ce:0+info_flow", start="by_labels", fit=fit(6)),
        ),
        methods=METHODS,
        seeds=1 if smoke else 3,
        fit=fit(10),
        teacher_fit=fit(10),
    )
    return Grid({"resnet14 → cnn1": recipe}, title=recipe.title, reference="kd")
