"""ICD's table on CIFAR-100, six pairs across families: the methods of paper_same but FSP, which needs equal channels.

    potstill bench paper_cross --data.root CIFAR100 --jobs 8

RepDistiller's protocol: 240 epochs, learning rate 0.01 for MobileNet and ShuffleNet students, five seeds (the CRD paper
took three here), the last epoch is the result; every row is run, none copied. Teachers are shared with paper_same.
"""

from potstill.grid import Grid
from potstill.protocols import compared, repdistiller

PAIRS = {  # teacher, student: DKD's beta in mdistiller
    ("vgg13", "MobileNetV2"): 6,
    ("ResNet50", "MobileNetV2"): 8,
    ("ResNet50", "vgg8"): 8,
    ("resnet32x4", "ShuffleV1"): 8,
    ("resnet32x4", "ShuffleV2"): 8,
    ("wrn_40_2", "ShuffleV1"): 8,
}


def grid(smoke: bool = False) -> Grid:
    shown = list(PAIRS.items())[:1] if smoke else PAIRS.items()
    return Grid(
        {
            f"{teacher} → {student}": repdistiller(
                teacher, student, ("student", "kd", "icd") if smoke else compared(beta, fsp=False), smoke=smoke
            )
            for (teacher, student), beta in shown
        },
        title="CIFAR-100, across families",
    )
