"""The folder of a run: who may write into it, and what it says about where it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from potstill import checkpoint
from potstill.compiling import missing
from potstill.precision import Choice, Precision
from potstill.ranks import agree, rank, wait
from potstill.recipe import Recipe

RECIPE, PRECISION, SUMMARY = "recipe.json", "precision.json", "summary.json"


GROWS = ("methods", "seeds", "title")
"""Leaves of a recipe that may differ between two runs whose cells belong in one table."""
SAVING = ("checkpoint_seconds", "checkpoint_steps")
IDLE = {"data": ("workers",), "fit": SAVING, "teacher_fit": SAVING}
"""Leaves that change no bit of a result: a run may go on with others."""


def check(out: Path, values: dict[str, Any], resume: bool, grows: bool = False) -> bool:
    """Whether `out` holds this very run already, to be gone on with; with `grows`, one of other methods or seeds.

    Raises ValueError when it holds another run (unless `resume`, and then when the recipes differ, naming where, or
    the data), or anything that is not a run.
    """
    recorded = out / RECIPE
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out a folder")
    if recorded.exists():
        if not resume:
            raise ValueError(f"{out} holds another run; continue it with --resume, or choose another --out")
        before = _recorded(recorded)
        left_out = GROWS if grows else ()
        known = "data" in before  # whether the pixels are others shows there, however they are read
        sides = [
            _changing({k: v for k, v in side.items() if k not in left_out}, ("stream",) if known else ())
            for side in (before["recipe"], values["recipe"])
        ]
        now, usual = _plain(sides[1]), _plain(asdict(Recipe(teacher_fit=Recipe().fit)))
        different = _differences(_completed(sides[0], now, usual), now)
        if different:
            raise ValueError(
                f"{out} was made by another recipe and cannot be resumed with this one; they differ in "
                + "; ".join(different[:5])
            )
        if known and before["data"] != values.get("data", before["data"]):
            read = [side.get("data", {}).get("stream") for side in (before["recipe"], values["recipe"])]
            why = (
                f"; they were read with data.stream {read[0]}, and are now with {read[1]}" if read[0] != read[1] else ""
            )
            raise ValueError(
                f"{out} was begun with other images or labels{why}; what they gave and what these give do not belong "
                "in one table: bring the data back as it was, or choose another --out"
            )
        return True
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and is no run of Potstill; choose an empty or new folder for --out")
    return False


@contextmanager
def claim(out: Path, values: dict[str, Any], resume: bool) -> Generator[None]:
    """Make the folder this run's own, with `recipe.json` in it, for as long as the `with` block takes.

    When the block fails before anything was trained, the folder goes again, so that it does not block the next try.
    Raises as `check` does.
    """
    if check(out, values, resume):
        yield
        return
    new = not out.exists()
    checkpoint.write_json(out / RECIPE, values)
    try:
        yield
    except BaseException:
        if {path.name for path in out.iterdir()} <= {RECIPE, PRECISION}:
            for name in (RECIPE, PRECISION):
                (out / name).unlink(missing_ok=True)
            if new:
                out.rmdir()
        raise


def settle_precision(out: Path | None, asked: str, measure: Callable[[], Choice]) -> tuple[Precision, str]:
    """The precision of all networks of a run, and why: as recorded, as asked, or as measured. Recorded in `out`.

    Raises ValueError when a resumed run asks for another one than it was begun with, and for a compiled one where
    nothing can be compiled.
    """
    record = None if out is None else out / PRECISION
    found = agree(json.loads(record.read_text()) if record is not None and record.exists() else None)
    if found is not None:
        if asked not in ("auto", found["choice"]):
            raise ValueError(f"{out} was begun in {found['choice']} and cannot be resumed in {asked}")
        return _possible(found["choice"]), found["why"]
    more = {}
    if asked == "auto":
        choice = measure()
        precision, why = agree((choice.precision, str(choice)))
        more = {"compile": choice.compile} if choice.compile else {}
    else:
        precision, why = _possible(asked), f"{asked}, as asked"
    if record is not None and rank() == 0:
        checkpoint.write_json(record, {"choice": precision.name, "why": why, **more})
    wait()
    return precision, why


def _possible(name: str) -> Precision:
    precision = Precision.named(name)
    if precision.compiled and (reason := missing()):
        raise ValueError(f"precision {name!r} compiles the networks, and {reason}")
    return precision


def waiting(out: Path) -> str:
    """Which part of its training time a run waited for data, over all its networks, evaluation left aside.

    With a GPU this is the host's time, which may wait for a batch while the device still has work.
    """
    rows = [json.loads(line) for path in sorted(out.glob("**/timings.jsonl")) for line in path.read_text().splitlines()]
    seconds, waited = (sum(row[name] for row in rows) for name in ("seconds", "waited_for_data"))
    return f"waited for data: {100 * waited / max(seconds, 1e-9):.1f} % of {seconds:.1f} s of training"


def describe(recipe: Recipe, seed: int, source: str | None) -> dict[str, Any]:
    """What `recipe.json` holds: resolved values, and the environment that they were resolved in."""
    return {
        "recipe": _plain({**asdict(recipe), "seed": seed}),
        "source": source,
        "environment": environment(),
    }


def environment() -> dict[str, Any]:
    """Versions, commit and machine, as far as they matter for a number."""
    found: dict[str, Any] = {name: _version(name) for name in ("potstill", "torch", "numpy", "accelerate")}
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


def _recorded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {**found, "recipe": found["recipe"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as the recipe of a run ({error}); choose another --out") from None


def _changing(recipe: dict[str, Any], read: tuple[str, ...]) -> dict[str, Any]:
    """A recipe without what changes no bit; `read` are further leaves of its data."""
    idle = {part: (*names, *read) if part == "data" else names for part, names in IDLE.items()}
    return {
        part: {k: v for k, v in values.items() if k not in idle.get(part, ())} if isinstance(values, dict) else values
        for part, values in recipe.items()
    }


def _plain(values: Any) -> Any:
    """As it comes back from a file: tuples are lists, paths are strings."""
    return json.loads(json.dumps(values, default=str))


def _completed(before: Any, now: Any, usual: Any) -> Any:
    """A recorded recipe with the leaves that are younger than it: they had their default."""
    if not all(isinstance(side, dict) for side in (before, now, usual)):
        return before
    added = {name: usual[name] for name in usual.keys() & now.keys() - before.keys()}
    return {name: _completed(value, now.get(name), usual.get(name)) for name, value in before.items()} | added


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [d for key in keys for d in _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    return [] if before == now else [f"{where} ({before!r}, now {now!r})"]
