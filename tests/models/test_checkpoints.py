"""Weights arrive whole or not at all, and every refusal says why."""

import argparse
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from potstill.models import load_weights, resnet8, small_cnn


@pytest.fixture
def saved():
    return small_cnn(10)


@pytest.fixture
def fresh():
    return small_cnn(10)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def refused(model, path, match, **kw):
    """Loading raises, and the model stays as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(model, path, **kw)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s, "acc": 0.5}])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, saved, fresh, wrap, name, zipped):
    torch.save(wrap(saved.state_dict()), tmp_path / name, _use_new_zipfile_serialization=zipped)
    load_weights(fresh, tmp_path / name)
    assert same(fresh, saved)


def test_safetensors(tmp_path, saved, fresh):
    save_file(saved.state_dict(), tmp_path / "student.safetensors")
    load_weights(fresh, str(tmp_path / "student.safetensors"))
    assert same(fresh, saved)


def test_data_parallel_prefix(tmp_path, saved, fresh):
    wrapped = {f"module.{key}": value for key, value in saved.state_dict().items()}
    torch.save(wrapped, tmp_path / "w.pth")
    load_weights(fresh, tmp_path / "w.pth")
    assert same(fresh, saved)
    holder = nn.Module()
    holder.module = small_cnn(10)
    load_weights(holder, tmp_path / "w.pth")
    assert same(holder.module, saved)


def test_precision_is_the_models(tmp_path, saved, fresh):
    torch.save(saved.double().state_dict(), tmp_path / "w.pth")
    load_weights(fresh, tmp_path / "w.pth")
    assert fresh.fc.weight.dtype == torch.float32
    assert same(fresh, saved.float())


def test_not_strict_loads_what_both_have(tmp_path, saved, fresh):
    state = saved.state_dict()
    del state["fc.bias"]
    torch.save({**state, "head.weight": torch.zeros(2)}, tmp_path / "w.pth")
    refused(fresh, tmp_path / "w.pth", r"1 missing: fc\.bias; 1 unexpected: head\.weight")
    bias = fresh.fc.bias.clone()
    load_weights(fresh, tmp_path / "w.pth", strict=False)
    assert torch.equal(fresh.fc.weight, saved.fc.weight)
    assert torch.equal(fresh.fc.bias, bias)


def test_not_strict_still_needs_something_in_common(tmp_path, fresh):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    refused(fresh, tmp_path / "w.pth", "missing.*1 unexpected: a", strict=False)


def test_other_number_of_classes(tmp_path, fresh):
    torch.save(small_cnn(100).state_dict(), tmp_path / "w.pth")
    for strict in (True, False):
        refused(fresh, tmp_path / "w.pth", "the checkpoint has 100 classes, the model 10", strict=strict)


def test_other_width_is_not_called_classes(tmp_path, fresh):
    torch.save(small_cnn(10, width=4).state_dict(), tmp_path / "w.pth")
    message = refused(fresh, tmp_path / "w.pth", r"do not fit SmallCNN.*stage1\.0\.conv\.weight \(shape \[4, 1, 3, 3\]")
    assert "classes" not in message
    assert "… and" in message


def test_other_architecture(tmp_path, fresh):
    torch.save(resnet8(10, in_channels=1).state_dict(), tmp_path / "w.pth")
    refused(
        fresh,
        tmp_path / "w.pth",
        r"18 missing: .* … and 15 more; .* unexpected: conv1\.weight, .*; 1 different",
    )


def test_integers_are_no_weights(tmp_path, saved, fresh):
    state = saved.state_dict()
    state["fc.weight"] = state["fc.weight"].to(torch.int8)
    torch.save(state, tmp_path / "w.pth")
    refused(fresh, tmp_path / "w.pth", r"fc\.weight \(int8, the model has float32\)")


def test_missing_file_folder_and_unknown_kind(tmp_path, fresh):
    refused(fresh, tmp_path / "none.pth", "none.pth: there is no such file")
    (tmp_path / "folder.pth").mkdir()
    refused(fresh, tmp_path / "folder.pth", "it is a folder")
    (tmp_path / "weights.npz").write_bytes(b"")
    refused(fresh, tmp_path / "weights.npz", "not a .safetensors, .pth or .pt file")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused(tmp_path, saved, fresh, zipped):
    whole = {"model": saved.state_dict(), "opt": argparse.Namespace(lr=0.1)}
    torch.save(whole, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    refused(fresh, tmp_path / "w.pth", r"holds pickled Python objects.*torch\.save\(model\.state_dict\(\)")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(argparse.Namespace(lr=0.1)))
    refused(fresh, tmp_path / "plain.pt", "holds pickled Python objects")


def test_the_objects_are_named(tmp_path, saved, fresh):
    torch.save(saved, tmp_path / "w.pth")
    refused(fresh, tmp_path / "w.pth", r"pickled Python objects \(.*SmallCNN")
    torch.save(nn.Linear(1, 1), tmp_path / "w.pth")
    refused(fresh, tmp_path / "w.pth", r"pickled Python objects \(.*torch\.nn\.modules\.linear\.Linear")


class RunsWhenRead:
    def __reduce__(self):
        return exec, ("raise SystemExit('this code must never run')",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(tmp_path, fresh, zipped):
    torch.save({"model": RunsWhenRead()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    refused(fresh, tmp_path / "w.pth", "holds pickled Python objects")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x00" * 100, b"PK\x03\x04broken", b"\x80\x02"])
def test_garbage(tmp_path, fresh, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    message = refused(fresh, path, "cannot be read as weights: damaged, cut short or of another kind")
    assert "\n" not in message
    assert "weights_only` set" not in message


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_cut_short(tmp_path, saved, fresh, kind, part):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(saved.state_dict(), path)
    else:
        torch.save(saved.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    refused(fresh, path, "cannot be read as weights: damaged, cut short or of another kind")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "no state dict .* but a list"),
        ({}, "but an empty one"),
        ({"model": {}}, "but an empty one"),
        ({"epoch": 3, "acc": 0.5}, "2 not tensors: epoch, acc"),
        (torch.zeros(3), "but a Tensor"),
    ],
)
def test_no_state_dict(tmp_path, fresh, content, match):
    torch.save(content, tmp_path / "w.pth")
    refused(fresh, tmp_path / "w.pth", match)


def test_torchscript_is_another_kind(tmp_path, fresh):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("w/version", "3")
    refused(fresh, tmp_path / "w.pt", "cannot be read as weights: .* of another kind")


@pytest.mark.parametrize("zipped", [True, False])
def test_new_pickle_protocols(tmp_path, saved, fresh, zipped):
    path = tmp_path / "w.pth"
    torch.save(saved.state_dict(), path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    refused(fresh, path, r"\(or was saved with a pickle protocol above 3\)")
