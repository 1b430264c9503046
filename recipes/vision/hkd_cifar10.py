"""HKD on CIFAR-10 by the authors' code: ResNet-18 -> CNN-1-A -> CNN-1, compared by retrieval.

Claim (arXiv 2005.00727, result files in the authors' repository), CIFAR-10 retrieval in percent, mAP (e), mAP (c),
top-100 (e), top-100 (c), all by the released interpolation (the columns with *):

    ResNet-18                  87.18  90.47  92.15  92.26
    CNN-1-A, by labels         41.41  47.36  66.03  70.15
    CNN-1-A, auxiliary         62.12  66.78  73.72  75.90
    CNN-1, by labels           35.30  39.00  55.87  58.77
    CNN-1, HKD                 49.20  53.06  61.54  64.24

The auxiliary teacher is trained by labels (assistant `by_labels`), and from there on ResNet-18's embedding (assistant
`auxiliary`); the student starts at random. Batch 128, Adam, 50 epochs (80 for ResNet-18 and CNN-1-A, the rate divided
by 10 for the last 30; 30 and 10 for the auxiliary). Without --data.root the images come from the hub.

    potstill distill recipes/vision/hkd_cifar10.py --data.root CIFAR10 --out runs/hkd
    potstill evaluate runs/hkd --suite retrieval

Where we differ: Adam keeps its moments when the rate of teacher and auxiliary falls (theirs start anew).
Beside the published rows: the control, the student straight from the teacher (`direct`), a weight that does not fall
(`late`), the last layer alone (`last`).
Smoke: 640 images, 1 epoch, CNN-1-A as the teacher.
"""

from dataclasses import replace

from potstill.data import Data
from potstill.recipe import Assistant, Fit, Network, Recipe

MEAN, STD = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)  # the authors'
METHODS = (
    "student",
    "hkd",
    "hkd~shuffled",
    "direct=hkd(auxiliary='teacher')",
    "late=hkd(decay=1)",
    "last=hkd(initial=0)",
)
ADAM = Fit(
    epochs=50, batch_size=128, optimizer="adamw", lr=1e-3, weight_decay=0.0, schedule="constant", drop_last=False
)


def recipe(smoke: bool = False) -> Recipe:
    def network(name: str) -> Network:
        return Network(name, mean=MEAN, std=STD)

    def fit(epochs: int, last: int = 0) -> Fit:
        """`last` more epochs at a tenth of the rate."""
        if smoke:
            return replace(ADAM, epochs=1)
        falls = {"schedule": "milestones", "milestones": (epochs / (epochs + last),)} if last else {}
        return replace(ADAM, epochs=epochs + last, **falls)

    auxiliary = network("cnn1_a")
    return Recipe(
        title="HKD on CIFAR-10: ResNet-18 to CNN-1 through CNN-1-A",
        data=Data(name="cifar10", train_rows=640 if smoke else None, valid_rows=200 if smoke else None),
        teacher=auxiliary if smoke else network("preact_resnet18_cifar"),
        student=network("cnn1"),
        assistants=(
            Assistant("by_labels", auxiliary, "student", fit=fit(50, 30)),
            Assistant("auxiliary", auxiliary, "ce:0+info_flow", start="by_labels", fit=fit(30, 10)),
        ),
        methods=METHODS[:2] if smoke else METHODS,
        seeds=1,
        fit=fit(50),
        teacher_fit=fit(50, 30),
    )
