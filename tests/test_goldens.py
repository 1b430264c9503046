"""The mean over units equals the reference's scalar: value, gradients and buffers, to 1e-9 in float64.

`POTSTILL_GOLDENS=FOLDER` runs the same tests on every file and case number of another folder.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_adapters import ADAPTERS

from potstill.types import Primes, Updates

OWN = Path(__file__).parent / "goldens"
FOLDER = Path(os.environ.get("POTSTILL_GOLDENS") or OWN)


@cache
def cases(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every case of a file: `{"c0": {"in.y_s": …}, …}`; what does not begin with a case number is left out."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file) as arrays:
        for key in arrays.files:
            if match := re.fullmatch(r"(c\d+)\.(.+)", key):
                found.setdefault(match[1], {})[match[2]] = arrays[key]
    return found


FILES = sorted(FOLDER.glob("*.npz"))
assert FILES, f"no golden files (*.npz) in {FOLDER}"
EVERY = [pytest.param(file, number, id=f"{file.stem}-{number}") for file in FILES for number in cases(file)]


class Golden:
    """One case as tensors, run through our objective."""

    def __init__(self, file: Path, number: str):
        if file.stem not in ADAPTERS:
            pytest.skip(f"no such method yet: {file.stem}")
        self.adapter = ADAPTERS[file.stem]
        self.case = self.adapter.rewrite(cases(file)[number])
        self.meta, hyper = (json.loads(str(self.case[name])) for name in ("meta", "hyper"))
        self.inputs = {
            name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in self.tensors("in.").items()
        }
        given = {**self.tensors("param."), **self.tensors("buffer.")}
        inputs = {name: tensor.detach() for name, tensor in self.inputs.items()}
        self.objective = self.adapter.build(hyper, {**inputs, **given}).double()
        self.without = [name.removeprefix("param.") for name in self.meta["nograd"] if name.startswith("param.")]
        self.load(given)
        extras = {name: self.inputs[theirs] for name, theirs in self.adapter.extras.items()}
        sides = self.side(self.adapter.student), self.side(self.adapter.teacher)
        if isinstance(self.objective, Primes):
            with torch.no_grad():
                self.objective.prime(*sides, **extras)
        self.loss = self.objective(*sides, **extras).mean()
        self.loss.backward()
        if isinstance(self.objective, Updates):
            with torch.no_grad():
                self.objective.update(*sides, **extras)

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            k.removeprefix(prefix): torch.from_numpy(v.copy()) for k, v in self.case.items() if k.startswith(prefix)
        }

    def side(self, name: str | tuple[str, ...] | None):
        if name is None:
            return None
        if isinstance(name, tuple):
            sides = [self.side(one) for one in name]
            return tuple(one for side in sides for one in (side if isinstance(side, tuple) else (side,)))
        if name in self.inputs:
            return self.inputs[name]
        count = sum(key.startswith(f"{name}.") for key in self.inputs)
        return tuple(self.inputs[f"{name}.{n}"] for n in range(count))

    def load(self, given: dict[str, torch.Tensor]) -> None:
        """The reference's numbers into our tensors: none of ours may be left over, none of theirs unused."""
        state, unused = self.objective.state_dict(), []
        frozen = {name: value for name, value in self.objective.named_buffers() if name not in state}
        missing = {name for name in state if not name.endswith("num_batches_tracked")}
        for theirs, value in given.items():
            ours = self.adapter.ours(theirs)
            if ours in state:
                missing.discard(ours)
                state[ours] = value.reshape(state[ours].shape)
            elif ours in frozen:  # a part of the teacher that we hold, and the reference differentiates
                frozen[ours].copy_(value).requires_grad_()
            elif theirs not in self.without:
                unused.append(theirs)
        assert not missing, f"the golden file gives no {missing}"
        assert not unused, f"our objective has no {unused}"
        self.objective.load_state_dict(state)

    def compare(self, ours: torch.Tensor, key: str) -> None:
        """Relative to each entry, with the rounding of float64 as the floor."""
        theirs = self.case[key]
        np.testing.assert_allclose(
            ours.detach().numpy().reshape(theirs.shape), theirs, rtol=1e-9, atol=1e-14, err_msg=key, equal_nan=False
        )


@pytest.mark.parametrize(("file", "number"), EVERY)
def test_golden(file, number):
    golden = Golden(file, number)
    if not golden.meta["loss_finite"]:
        pytest.skip(f"the reference's loss is not finite here: {golden.meta['notes']}")
    golden.compare(golden.loss, "out.loss")
    buffers = dict(golden.objective.named_buffers())
    for name in golden.tensors("buffer."):
        changed = f"out.buffer.{name}"
        golden.compare(buffers[golden.adapter.ours(name)], changed if changed in golden.case else f"buffer.{name}")

    parameters = {**buffers, **dict(golden.objective.named_parameters())}
    compared = 0
    for key in golden.case:
        if not key.startswith("grad.") or not (golden.meta["grads_finite"] or np.isfinite(golden.case[key]).all()):
            continue
        _, kind, name = key.split(".", 2)
        tensor = golden.inputs[name] if kind == "in" else parameters[golden.adapter.ours(name)]
        golden.compare(tensor.grad, key)
        compared += 1
    assert compared or not golden.meta["grads_finite"]
    for name in golden.meta["nograd"]:
        kind, name = name.split(".", 1)
        tensor = golden.inputs.get(name) if kind == "in" else parameters.get(golden.adapter.ours(name))
        assert tensor is None or tensor.grad is None or not tensor.grad.any(), f"{name} must get no gradient"


def test_every_copied_file_is_compared():
    """Nothing in our own folder is skipped for want of an adapter, and no adapter lacks its file."""
    assert {file.stem for file in OWN.glob("*.npz")} == set(ADAPTERS)


def test_cases_are_discovered(tmp_path):
    """A folder with other case numbers, and a table that is no method's file."""
    with np.load(OWN / "kd.npz") as kd:
        arrays = {key.replace("c1.", "c12."): kd[key] for key in kd.files}
    np.savez(tmp_path / "kd.npz", **arrays)
    np.savez(tmp_path / "models_logits.npz", input=np.zeros(3))
    assert set(cases(tmp_path / "kd.npz")) == {"c0", "c12"}
    assert not cases(tmp_path / "models_logits.npz")
    test_golden(tmp_path / "kd.npz", "c12")


def test_a_wrong_number_is_noticed(tmp_path):
    with np.load(OWN / "icd_v2.npz") as icd:
        arrays = dict(icd)
    for key in ("c0.out.loss", "c0.grad.in.f_s", "c0.grad.param.embed_t.weight"):
        np.savez(tmp_path / "icd_v2.npz", **{**arrays, key: arrays[key] * (1 + 1e-8)})
        cases.cache_clear()
        with pytest.raises(AssertionError, match=key.removeprefix("c0.")):
            test_golden(tmp_path / "icd_v2.npz", "c0")
