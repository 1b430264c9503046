"""ICD's transfer table: CIFAR-100 students of WRN-40-2, their linear probes on STL-10 and Tiny ImageNet, in both arms.

    potstill bench transfer --data.root CIFAR100 --jobs 4

Trains what paper_same trains for WRN-40-2 → WRN-16-2 (the same teacher is taken from the shared folder), then probes
every network by the released protocol: 32x32, 120 epochs, drops at 30, 60 and 90. `frozen` keeps the network in
evaluation mode; `drifting` is the released script, whose batch-norm statistics move. The probes' data comes from the
hub; `potstill transfer RUN --data tiny_imagenet --data.root FOLDER` takes it from a disk.
"""

from potstill.data import Data
from potstill.grid import Grid
from potstill.protocols import repdistiller
from potstill.transfer import Protocol

METHODS = ("student", "kd", "at", "fitnet", "crd", "crd+kd", "icd", "icd+kd", "rrd", "rrd+kd")


def grid(smoke: bool = False) -> Grid:
    methods = METHODS[:2] if smoke else METHODS
    recipe = repdistiller("wrn_40_2", "wrn_16_2", methods, smoke=smoke, title="Transfer: WRN-40-2 to WRN-16-2")
    epochs = 2 if smoke else 120
    probes = tuple(
        (Data(name=name, size=32), Protocol(arm=arm, epochs=epochs, views=8 if arm == "frozen" else None))
        for name in ("stl10", "tiny_imagenet")
        for arm in ("frozen", "drifting")
    )
    return Grid({"wrn_40_2 → wrn_16_2": recipe}, title=recipe.title, transfer=probes)
