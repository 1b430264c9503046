"""Images without labels: whatever lies below a folder, however it is sorted there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from potstill.data.folders import ENDINGS, contents, images_below, subfolders
from potstill.data.raw import VALID_NAMES, Raw, interleave
from potstill.data.spec import Data
from potstill.data.stores import Files

TRAIN_NAMES = ("train", "training")


def image_folder(root: Path, data: Data) -> tuple[Raw, Raw | None, list[str]]:
    """All images below `root`, without labels; also returns notes.

    Where there is a folder train and one to validate on (val, valid, validation, dev, test), these are the splits, and
    what lies beside them is left out. A prefix of the rows is a sample of all folders: their order is a hash's.

    Raises:
        ValueError: `root` is no folder, or no image lies below it or below one of its splits.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is a file; data.unlabelled takes a folder of images")
    notes = [
        f"data.{option} has no effect: unlabelled images have no columns"
        for option in ("label", "image")
        if getattr(data, option) is not None
    ]
    by_name = {folder.name.lower(): folder for folder in subfolders(root)}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    held = next((by_name[name] for name in VALID_NAMES if name in by_name), None)
    if train is None or held is None:
        return _split("train", root, notes), None, notes
    if aside := [folder.name for folder in by_name.values() if folder not in (train, held)]:
        notes.append(f"beside {train.name} and {held.name}, {len(aside)} folder(s) left out: {', '.join(aside[:5])}")
    if loose := sum(file.name.lower().endswith(ENDINGS) for file in root.iterdir()):
        notes.append(f"beside {train.name} and {held.name}, {loose} image(s) left out")
    return _split("train", train, notes), _split(held.name.lower(), held, notes), notes


def _split(split: str, folder: Path, notes: list[str]) -> Raw:
    paths, others = images_below(folder)
    if not paths:
        raise ValueError(
            f"no image below {folder}: looked for files that end in {', '.join(ENDINGS[:4])} …; there is "
            f"{contents(folder)} (data.unlabelled reads image files only, not Parquet, tar or CSV)"
        )
    if others:
        notes.append(f"{split}: {others} file(s) that are not images left out")
    labels = np.zeros(len(paths), dtype=np.int64)
    ordered = [paths[row] for row in interleave(labels, "unlabelled").tolist()]
    return Raw(split, labels, (), Files.of(ordered, folder), np.arange(len(ordered)))
