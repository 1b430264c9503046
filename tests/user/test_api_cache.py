"""`potstill.distill(..., cache=FOLDER)`: two lines of Python in which the teacher is paid once."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from networks import PlainCNN, TinyViT, bars, state_of
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import potstill
from potstill import Cache, Data, Fit, Images, Preprocess, Term
from potstill.cache import read_about
from potstill.data import load
from potstill.objectives import OBJECTIVES

FIT = Fit(epochs=2, batch_size=12, lr=0.02, schedule="constant")
STEM = [Term(OBJECTIVES["ce"]), Term(OBJECTIVES["sp"], "embedding", "stem")]
QUIET = {"quiet": True, "precision": "float32"}


def as_images(x, y):
    return Images((x * 255).to(torch.uint8), y, ("left", "middle", "right"), "bars", "train", "by hand")


def as_stream(x, y, root):
    """Files of three classes, decoded and augmented while training."""
    for number, (picture, label) in enumerate(zip((x * 255).to(torch.uint8), y.tolist(), strict=True)):
        path = root / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0].numpy()).save(path)
    data = Data(root=root, stream="always", augment="crop-flip", valid_fraction=0.1, workers=0)
    return load(data, quiet=True)[0]


def taught(teacher, data, **options):
    """The weights of a student with dropout, byte for byte."""
    torch.manual_seed(1)
    student = TinyViT()
    learned = potstill.distill(teacher, student, data, **{"method": "icd+kd", "fit": FIT} | QUIET | options)
    return {name: value.numpy().tobytes() for name, value in learned.state_dict().items()}


def files(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stored(teacher, tmp_path):
    """A cache of 40 tensors for icd+kd."""
    taught(teacher, bars(40), cache=tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize("form", ["tensors", "data set", "images", "stream"])
def test_the_same_student_bit_for_bit(form, teacher, tmp_path):
    """From the cache as it is written, and from the cache as it lies there; other seeds share it where nothing is
    augmented."""
    make = {
        "tensors": lambda x, y: (x, y),
        "data set": TensorDataset,
        "images": as_images,
        "stream": lambda x, y: as_stream(x, y, tmp_path / "files"),
    }
    data, folder = make[form](*bars(40)), tmp_path / "c"
    live = taught(teacher, data)
    assert taught(teacher, data, cache=folder) == live
    written = files(folder)
    assert taught(teacher, data, cache=str(folder)) == live
    assert files(folder) == written
    assert read_about(folder).views == (2 if form == "stream" else 1)
    if form == "stream":
        with pytest.raises(ValueError, match=r"differ in data_seed \(0, now 1\)"):
            taught(teacher, data, cache=folder, seed=1)
        longer = {"fit": replace(FIT, epochs=3)}
        assert taught(teacher, data, cache=folder, **longer) == taught(teacher, data, **longer)
        assert read_about(folder).views == 3
    else:
        assert taught(teacher, data, cache=folder, seed=1) == taught(teacher, data, seed=1) != live


def test_it_is_the_cache_that_speaks(teacher, stored):
    """Other answers in the files make another student; in batches of another size they serve too."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    live = taught(teacher, bars(40), cache=stored)
    assert taught(teacher, bars(40), cache=stored, fit=replace(FIT, batch_size=10)) != live
    shard = stored / "view0000" / "shard0000.safetensors"
    with safe_open(shard, "pt") as file:
        tensors, mark = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors | {"output": -tensors["output"]}, shard, metadata=mark)
    assert taught(teacher, bars(40), cache=stored) != live


def test_what_is_missing_is_written_again(teacher, stored):
    live, before = taught(teacher, bars(40)), files(stored)
    shard = stored / "view0000" / "shard0000.safetensors"
    shard.unlink()
    assert taught(teacher, bars(40), cache=stored) == live
    assert shard.read_bytes() == before[shard][0]


def test_what_does_not_fit_is_refused(teacher, stored):
    """Never a silent fallback: neither the cache nor the student is touched."""
    before = files(stored)
    other = PlainCNN()
    other.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    x, y = bars(40)
    changed = x.clone()
    changed[7, 0, 3, 3] += 0.01
    for guide, data, options, message in (
        (other, (x, y), {}, r"differ in teacher \("),
        (teacher, (changed, y), {}, r"differ in data \("),
        (teacher, (x[:39], y[:39]), {}, r"samples \(40, now 39\)"),
        (teacher, (x, y), {"teacher_preprocess": Preprocess((0.5,), (0.5,))}, r"differ in teacher \("),
        (teacher, (x, y), {"precision": "bf16"}, r"differ in precision \('float32', now 'bf16'\)"),
        (teacher, (x, y), {"method": STEM}, "holds output, embedding, and the method also reads stem"),
        (teacher, (x, y), {"method": "simkd"}, "simkd is built from modules of the teacher, which no cache holds"),
        (teacher, (x, y), {"cache": Cache(stored, dtype="bf16")}, r"differ in dtype \(None, now 'bf16'\)"),
        (teacher, (x, y), {"cache": stored / "view0000"}, "is no cache and not empty"),
    ):
        student = TinyViT()
        start = state_of(student)
        with pytest.raises(ValueError, match=message):
            potstill.distill(
                guide, student, data, **{"method": "icd+kd", "fit": FIT, "cache": stored} | QUIET | options
            )
        assert all(torch.equal(value, start[name]) for name, value in student.state_dict().items())
    assert files(stored) == before


def test_where_nobody_asks_the_cache_keeps_its_precision(teacher, tmp_path, capfd):
    taught(teacher, bars(40), cache=tmp_path / "c", precision="bf16", method="kd")
    taught(teacher, bars(40), cache=tmp_path / "c", precision="auto", method="kd")
    assert read_about(tmp_path / "c").precision == "bf16"
    taught(teacher, bars(40), cache=tmp_path / "none", method="student", quiet=False)
    assert "cache has no effect: student does not listen to the teacher" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_second_view_is_in_no_cache(teacher, nothing_left):
    with pytest.raises(ValueError, match="asks the teacher about another view of each sample"):
        taught(teacher, as_images(*bars(40)), cache=nothing_left, method="dual+icd")


class Items(Dataset):
    """May change its samples as it likes."""

    def __len__(self):
        return 40

    def __getitem__(self, place):
        return torch.rand(1, 12, 12), place % 3


@pytest.mark.parametrize("data", [Items(), DataLoader(Items(), batch_size=12)])
def test_data_that_nobody_can_find_again(data, teacher, nothing_left):
    with pytest.raises(ValueError, match=f"cache: a {type(data).__name__} orders or changes .* pair of tensors"):
        taught(teacher, data, cache=nothing_left)


def test_the_largest_logits(teacher, tmp_path):
    kept = Cache(tmp_path / "c", top_k=1, dtype="bf16")
    first = taught(teacher, bars(40), cache=kept, method="kd")
    assert taught(teacher, bars(40), cache=tmp_path / "c", method="kd") == first
    with pytest.raises(ValueError, match="top_k has nothing to store"):
        taught(teacher, bars(40), cache=Cache(tmp_path / "d", top_k=1), method="icd")
    with pytest.raises(ValueError, match="term 'dkd' reads all of the teacher's logits"):
        taught(teacher, bars(40), cache=tmp_path / "c", method="dkd")


def test_a_killed_writer_goes_on(teacher, tmp_path, monkeypatch):
    """The second shard fails; the first is kept, and the same call finishes the cache."""
    from potstill import cache

    monkeypatch.setattr(cache, "SHARD_ROWS", 12)
    live, rename = taught(teacher, bars(40)), os.replace

    def replacing(before, after):
        if str(after).endswith("shard0001.safetensors"):
            raise KeyboardInterrupt
        rename(before, after)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replacing)
        with pytest.raises(KeyboardInterrupt):
            taught(teacher, bars(40), cache=tmp_path / "c")
    (first,) = (tmp_path / "c").glob("view0000/*")
    kept = first.stat().st_mtime_ns
    assert taught(teacher, bars(40), cache=tmp_path / "c") == live
    assert first.stat().st_mtime_ns == kept
    assert len(list((tmp_path / "c").glob("view0000/*"))) == 4
    shutil.rmtree(tmp_path / "c")
