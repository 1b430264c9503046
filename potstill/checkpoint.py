"""Save and resume: everything a run needs to go on with the same bits, in one file that is never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

STATE = Path("checkpoint") / "state.pt"


def write_beside(path: Path, write) -> None:
    """Call `write(temporary path)`, then rename: readers see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Take away what a process that was killed while it wrote this file has left."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink()


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, default=str) + "\n"
    write_beside(path, lambda temporary: temporary.write_text(text))


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Tensors and plain values only, so that reading needs no unpickling of code."""
    write_beside(folder / STATE, lambda temporary: torch.save(dict(state), temporary))


def exists(folder: Path) -> bool:
    return (folder / STATE).exists()


def read(folder: Path) -> dict[str, Any]:
    """Raises ValueError, naming the file, when it is not a checkpoint."""
    path = folder / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "position" not in state:
            raise ValueError("it says nothing about a run")
        return state
    except Exception as error:
        reason = str(error).partition(". ")[0]  # what PyTorch goes on to advise is not for users
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({reason}); delete it to start this run again"
        ) from None


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """safetensors, contiguous in the usual layout whatever the run computed in."""
    ready = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_beside(path, lambda temporary: save_file(ready, temporary))
