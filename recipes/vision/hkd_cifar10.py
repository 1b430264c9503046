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

from potstill.protocols import information_flow
from potstill.recipe import Recipe

MEAN, STD = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)  # the authors'
METHODS = (
    "student",
    "hkd",
    "hkd~shuffled",
    "direct=hkd(auxiliary='teacher')",
    "late=hkd(decay=1)",
    "last=hkd(initial=0)",
)


def recipe(smoke: bool = False) -> Recipe:
    return information_flow(
        "cifar10",
        "HKD on CIFAR-10: ResNet-18 to CNN-1 through CNN-1-A",
        METHODS[:2] if smoke else METHODS,
        mean=MEAN,
        std=STD,
        smoke=smoke,
    )
