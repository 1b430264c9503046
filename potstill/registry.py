"""Trained teachers, each under a hash of what it was trained on and how, so that none is trained twice.

A teacher's folder holds what a trained student's does: `student.safetensors`, `student.json`, `metrics.jsonl` and
`result.json`, which is written last. Weights from elsewhere can stand in for the training (`register`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from potstill import checkpoint, runs
from potstill.data.cache import folder as cache_folder
from potstill.methods import parse
from potstill.recipe import Assistant, Fit
from potstill.student import CARD, WEIGHTS

RESULT = "result.json"
MODEL = "model"
"""Folder of a language model, as transformers writes it, in place of `student.safetensors`."""
KEPT = (WEIGHTS, CARD, "metrics.jsonl", "timings.jsonl", RESULT)


def default_folder() -> Path:
    """`teachers/` in Potstill's cache folder (`$POTSTILL_CACHE`, else the user's)."""
    return cache_folder() / "teachers"


def key(setting: Any, seed: int, assistant: Assistant | None = None, taught_by: str = "") -> str:
    """A hash of everything that the weights of a recipe's teacher depend on, precision and machine left out.

    Or those of an assistant, with the fingerprints of whoever teaches it.
    """
    recipe = setting.recipe
    fit = recipe.training_of(assistant)
    spec = assistant.network if assistant else recipe.teacher
    values: dict[str, Any] = {
        "network": {
            name: value for name, value in asdict(spec).items() if name not in ("cache", "checkpoint", "budget")
        },
        "fit": _changing(fit),
        **setting.learns_from,
        "seed": seed,
    }
    if assistant:
        values |= {"name": assistant.name, "method": parse(assistant.method).expansion, "taught_by": taught_by}
    text = json.dumps(values, sort_keys=True, default=str)
    name = spec.name.replace(":", "_").replace("/", "_")
    return f"{name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _changing(fit: Fit) -> dict[str, Any]:
    idle = (*runs.SAVING, "evaluate_every", "shard", "patience")
    return {name: value for name, value in asdict(fit).items() if name not in idle}


def finished(place: Path) -> bool:
    return (place / RESULT).is_file()


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """One process at a time trains the teacher of a folder; the others wait for it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        yield


def copy(source: Path, target: Path) -> None:
    """Copy a finished teacher, `result.json` last, so that a run folder stands on its own."""
    target.mkdir(parents=True, exist_ok=True)
    if (source / MODEL).is_dir() and not (target / MODEL).exists():
        beside = target / f".{MODEL}.new"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source / MODEL, beside).rename(target / MODEL)
    for name in KEPT:
        if (source / name).exists():
            checkpoint.write_beside(target / name, lambda path, name=name: shutil.copyfile(source / name, path))
