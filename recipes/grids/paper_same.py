"""ICD's table on CIFAR-100, seven pairs of one family: thirteen methods, ICD, ICD+KD, RRD, RRD+KD, CRD+KD, DKD, DIST.

    potstill bench paper_same --data.root CIFAR100 --jobs 8

RepDistiller's protocol: 240 epochs, five seeds, the last epoch is the result; every row is run, none copied. That is
730 students and 5 teachers; `--pairs wrn_40_2-wrn_16_2 --methods student kd crd icd icd+kd` is the core of it.
Published numbers stand beside ours with their source. FSP needs equal channels and is left out of WRN-40-2 →
WRN-40-1.
"""

from potstill.grid import Grid
from potstill.protocols import compared, repdistiller

PAIRS = {  # teacher, student, DKD's beta in mdistiller, whether FSP applies
    ("wrn_40_2", "wrn_16_2"): (6, True),
    ("wrn_40_2", "wrn_40_1"): (6, False),
    ("resnet56", "resnet20"): (2, True),
    ("resnet110", "resnet20"): (2, True),  # not in mdistiller's list: as for resnet32
    ("resnet110", "resnet32"): (2, True),
    ("resnet32x4", "resnet8x4"): (8, True),
    ("vgg13", "vgg8"): (6, True),
}


def grid(smoke: bool = False) -> Grid:
    shown = list(PAIRS.items())[:2] if smoke else PAIRS.items()
    return Grid(
        {
            f"{teacher} → {student}": repdistiller(
                teacher, student, ("student", "kd", "icd") if smoke else compared(beta, fsp=fsp), smoke=smoke
            )
            for (teacher, student), (beta, fsp) in shown
        },
        title="CIFAR-100, same family",
    )
