"""The folder of a run: who may write into it, and what it says about where it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from potstill import checkpoint
from potstill.recipe import Recipe

RECIPE, SUMMARY = "recipe.json", "summary.json"


def claim(out: Path, values: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's own, and write `recipe.json`.

    Raises ValueError when it holds another run (unless `resume`, and then when the recipes differ, naming where), or
    anything that is not a run.
    """
    recorded = out / RECIPE
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out a folder")
    if recorded.exists():
        if not resume:
            raise ValueError(f"{out} holds another run; continue it with --resume, or choose another --out")
        before = json.loads(recorded.read_text())
        different = _differences(before["recipe"], values["recipe"])
        if different:
            raise ValueError(
                f"{out} was made by another recipe and cannot be resumed with this one; they differ in "
                + "; ".join(different[:5])
            )
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and is no run of Potstill; choose an empty or new folder for --out")
    checkpoint.write_json(recorded, values)


def describe(recipe: Recipe, seed: int, source: str | None) -> dict[str, Any]:
    """What `recipe.json` holds: resolved values, and the environment that they were resolved in."""
    return {
        "recipe": json.loads(json.dumps({**asdict(recipe), "seed": seed}, default=str)),
        "source": source,
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Versions, commit and machine, as far as they matter for a number."""
    found = {name: _version(name) for name in ("potstill", "torch", "numpy", "accelerate")}
    found |= {
        "python": platform.python_version(),
        "commit": _commit(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that Potstill runs from; None when it is installed."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [d for key in keys for d in _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    return [] if before == now else [f"{where} ({before!r}, now {now!r})"]
