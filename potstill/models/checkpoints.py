"""Load weights into a model: all of them or none, and never a pickle that could run code.

Protocol: checkpoints as papers publish them (a bare state dict, or one under "model" or "state_dict", perhaps
saved from a data-parallel wrapper) and Potstill's own `student.safetensors`.
"""

import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from potstill.models.foreign import Logits

WRAPPER = "module."
"""What (Distributed)DataParallel puts in front of every key."""
STATE_DICTS = ("collections.", "torch._utils.")
"""What a pickled state dict is made of, besides storages."""
SHOWN = 3
"""Keys of each kind that an error lists before it only counts."""


def load_weights(model: nn.Module, path: str | Path, *, strict: bool = True) -> None:
    """Copy the weights in a `.safetensors`, `.pth` or `.pt` file into `model`, in place, or none of them.

    Values are converted to the model's dtype and device. With `strict=False` keys may be missing on either
    side, and only what both have is copied; a tensor of another shape is still an error, and so is a file
    that has no key in common with the model.

    Raises ValueError for a file that is absent, broken, of another kind or full of pickled Python objects,
    and for weights that do not fit; the message names what did not.
    """
    path = Path(path)
    weights = _without_wrapper(_state_dict(_read(path), path), model)
    expected = model.state_dict()
    common = [key for key in expected if key in weights]
    misfits = {key: _difference(weights[key], expected[key]) for key in common}
    misfits = {key: difference for key, difference in misfits.items() if difference}
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected]

    if misfits and not missing and not unexpected:
        _check_classes(model, path, {key: (weights[key], expected[key]) for key in misfits})
    problems = []
    if missing and (strict or not common):
        problems.append(_listed("missing", missing))
    if unexpected and (strict or not common):
        problems.append(_listed("unexpected", unexpected))
    if misfits:
        problems.append(_listed("different", [f"{key} ({difference})" for key, difference in misfits.items()]))
    if problems:
        raise ValueError(
            f"the weights in {path} do not fit {type(model).__name__}, nothing was loaded: " + "; ".join(problems)
        )
    model.load_state_dict(weights, strict=False)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"no weights at {path}: " + ("it is a folder" if path.is_dir() else "there is no such file"))
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"{path} is not a .safetensors, .pth or .pt file")
    # A broken file can fail anywhere inside a reader, with any exception; the user needs to hear one thing.
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        with warnings.catch_warnings():  # torch remarks on pickle protocols before it decides
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = _pickled_objects(path)
        if objects is None:
            raise _broken(path, error) from None
    except Exception as error:
        raise _broken(path, error) from None
    raise ValueError(
        f"{path} holds pickled Python objects{objects}, which can run any code when read, so it was not. "
        "Where you trust the file, open it with the code that wrote it and keep the tensors only: "
        "torch.save(model.state_dict(), path)"
    )


def _broken(path: Path, error: Exception) -> ValueError:
    # The first sentence only: torch goes on to advise reading the file unsafely.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
    return ValueError(f"{path} cannot be read as weights: damaged, cut short or of another kind? ({reason})")


def _pickled_objects(path: Path) -> str | None:
    """What a refused file holds, as far as its pickle tells without being run; None: no sound pickle."""
    # Whatever goes wrong here means one thing: these are not a pickle's instructions.
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                content = archive.read(inside)
            names = {str(arg).replace(" ", ".") for op, arg, _ in pickletools.genops(content) if op.name == "GLOBAL"}
            names = {name for name in names if not name.startswith(STATE_DICTS) and not name.endswith("Storage")}
        else:
            with path.open("rb") as file:
                list(pickletools.genops(file))
    except Exception:
        return None
    if not names:
        return " (or was saved with a pickle protocol above 3)"
    return f" ({', '.join(sorted(names)[:SHOWN])}{' …' if len(names) > SHOWN else ''})"


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        for key in ("model", "state_dict"):
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not loaded:
        found = "an empty one" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
        raise ValueError(f"{path} holds no state dict (bare, or under 'model' or 'state_dict') but {found}")
    foreign = [str(key) for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise ValueError(
            f"{path} holds no state dict (bare, or under 'model' or 'state_dict'): " + _listed("not tensors", foreign)
        )
    return dict(loaded)


def _without_wrapper(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    if isinstance(model, Logits) and not any(key.startswith("network.") for key in weights):
        weights = {f"network.{key.removeprefix(WRAPPER)}": value for key, value in weights.items()}
    if not all(key.startswith(WRAPPER) for key in weights):
        return weights
    if all(key.startswith(WRAPPER) for key in model.state_dict()):
        return weights  # the model is wrapped as well
    return {key.removeprefix(WRAPPER): value for key, value in weights.items()}


def _difference(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        return f"shape {list(found.shape)}, the model has {list(expected.shape)}"
    # Copying between precisions is fine; integers in place of weights are another format (quantised, say).
    if (found.is_floating_point(), found.is_complex()) != (
        expected.is_floating_point(),
        expected.is_complex(),
    ):
        return f"{found.dtype}, the model has {expected.dtype}".replace("torch.", "")
    return ""


def _check_classes(model: nn.Module, path: Path, misfits: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Say it in plain words if a linear layer's rows are all that differs: then it is the classifier."""
    owners = {key.rpartition(".")[0] for key in misfits}
    if len(owners) > 1 or not isinstance(model.get_submodule(owners.pop()), nn.Linear):
        return
    if any(not found.ndim or found.shape[1:] != expected.shape[1:] for found, expected in misfits.values()):
        return
    rows = {(len(found), len(expected)) for found, expected in misfits.values()}
    if len(rows) == 1 and (pair := rows.pop())[0] != pair[1]:
        raise ValueError(
            f"the checkpoint has {pair[0]} classes, the model {pair[1]}; all else in {path} fits, but "
            f"nothing was loaded. Build the model with num_classes={pair[0]}"
        )


def _listed(kind: str, keys: list[str]) -> str:
    more = f" … and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {kind}: " + ", ".join(keys[:SHOWN]) + more
