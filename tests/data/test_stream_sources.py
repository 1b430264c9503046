"""Where streamed images come from: folders, Parquet, WebDataset, `datasets`; and the index that finds them again."""

import io
import json
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from potstill.data import Data, Images, Stream, from_datasets, load, readers, stores, streaming, training, unreadable

CLASSES = ("ant", "bee")
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def folder(tmp_path, picture):
    root = tmp_path / "folder"
    for number in range(24):
        for split in ("train", "val")[: 2 if number < 6 else 1]:
            colour, size = (9 * number, 250 - 9 * number, 60), (30 + number, 40)
            picture(root / split / CLASSES[number % 2] / f"{number:02}.jpg", colour, size, seed=number)
    return root


def samples(folder, split):
    """(name, bytes, label) in the order in which class folders are read: round the classes."""
    files = [sorted((folder / split / name).iterdir()) for name in CLASSES]
    return [(p.stem, p.read_bytes(), label) for pair in zip(*files, strict=True) for label, p in enumerate(pair)]


def as_table(rows):
    images = pa.array([{"bytes": data, "path": None} for _, data, _ in rows], KIND)
    table = pa.table({"image": images, "label": [label for *_, label in rows]})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def as_parquet(folder, root, rows=5):
    """Two training files of several row groups, in the hub's layout."""
    (root / "data").mkdir(parents=True)
    found = samples(folder, "train")
    for number, part in enumerate((found[:10], found[10:])):
        pq.write_table(as_table(part), root / "data" / f"train-{number:05}-of-00002.parquet", row_group_size=rows)
    pq.write_table(as_table(samples(folder, "val")), root / "data" / "validation-00000-of-00001.parquet")
    return root


def add(tar, name, data):
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def as_shards(folder, root, label="cls"):
    root.mkdir(parents=True)
    found = {"train-0": samples(folder, "train")[:10], "train-1": samples(folder, "train")[10:]}
    for name, rows in (found | {"validation-0": samples(folder, "val")}).items():
        with tarfile.open(root / f"set-{name}.tar", "w") as tar:
            for key, data, number in rows:
                add(tar, f"./{key}.jpg", data)
                if label == "cls":
                    add(tar, f"./{key}.cls", str(number).encode())
                else:
                    add(tar, f"./{key}.json", json.dumps({label: CLASSES[number], "other": [1]}).encode())
    return root


class Table:
    """What `datasets.Dataset` does with an Arrow table, as far as it is used."""

    _fingerprint = "0"

    def __init__(self, table):
        self.table, self.features = table, self
        self.arrow_schema = table.schema

    def __len__(self):
        return len(self.table)

    def select_columns(self, names):
        return Table(self.table.select(names))

    def with_format(self, kind):
        assert kind == "arrow"
        return self

    def __getitem__(self, rows):
        return self.table[rows] if isinstance(rows, slice) else self.table.take(pa.array(rows))


OURS = Data("set", size=20, augment="resized-crop-flip", workers=0)


def splits(root, **kw):
    return load(replace(OURS, root=root, **kw), quiet=True)


def epoch(split, number=1):
    views = [batch.main for batch in training(split, min(6, len(split)), augment="", seed=2).epoch(number)]
    return [torch.cat([getattr(view, name) for view in views]) for name in ("input", "index", "label")]


def equal(one, two):
    assert all(torch.equal(a, b) for a, b in zip(epoch(one), epoch(two), strict=True))
    assert all(torch.equal(one.picture(row), two.picture(row)) for row in range(len(one)))
    assert len(one) == len(two)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("form", ["parquet", "webdataset", "webdataset with json", "datasets", "one file"])
def test_every_source_gives_the_same_samples(form, workers, folder, tmp_path):
    train, valid = splits(folder)
    assert (len(train), len(valid), train.classes) == (24, 6, CLASSES)
    if form == "datasets":
        tables = (Table(as_table(samples(folder, split))) for split in ("train", "val"))
        others = from_datasets(*tables, replace(OURS, workers=workers))
    elif form == "parquet":
        others = splits(as_parquet(folder, tmp_path / "other"), workers=workers)
    elif form == "one file":
        one = as_parquet(folder, tmp_path / "other") / "data" / "train-00000-of-00002.parquet"
        others = splits(one, workers=workers)
        assert (len(others[0]), len(others[1])) == (8, 2)
        return
    else:
        label = "cls" if form == "webdataset" else "class"
        root = as_shards(folder, tmp_path / "other", label)
        others = splits(root, workers=workers, label=None if label == "cls" else label)
    equal(train, others[0])
    equal(valid, others[1])
    named = ("0", "1") if form == "webdataset" else CLASSES  # numbers in a shard have no names
    assert others[0].classes == named


def test_datasets_itself(folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    as_parquet(folder, tmp_path / "other")
    found = datasets.load_dataset(str(tmp_path / "other"), cache_dir=str(tmp_path / "cache"))
    streams = from_datasets(found["train"], found["validation"], replace(OURS, workers=1))
    for one, two in zip(splits(folder), streams, strict=True):
        equal(one, two)


def test_webdataset_in_memory(folder, tmp_path):
    """Shards are a source like others: small ones are decoded once."""
    (one, _), (two, _) = (
        load(Data("set", root, size=16), quiet=True) for root in (folder, as_shards(folder, tmp_path / "shards"))
    )
    assert isinstance(two, Images)
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)


@pytest.fixture
def never_looked(monkeypatch):
    """From here on the data folder is not searched."""

    def forbid():
        monkeypatch.setattr(readers, "_find", lambda data, quiet: pytest.fail("the folder was searched again"))

    return forbid


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset", "csv"])
def test_the_index_is_made_once(form, folder, tmp_path, never_looked, cache):
    root = folder
    if form == "csv":
        root = tmp_path / "list.csv"
        lines = [
            f"folder/train/{name}/{path.name},{name}"
            for name in CLASSES
            for path in (folder / "train" / name).iterdir()
        ]
        root.write_text("\n".join(["path,label", *lines]))
    elif form != "folder":
        root = (as_parquet if form == "parquet" else as_shards)(folder, tmp_path / "other")
    before = splits(root)
    assert not list(cache.glob("images/*"))
    never_looked()
    after = splits(root)
    for one, two in zip(before, after, strict=True):
        equal(one, two)
        assert (one.digest, one.fingerprint, one.classes) == (two.digest, two.fingerprint, two.classes)
        assert one.pictures.raw.where(1) == two.pictures.raw.where(1)
    assert [len(split) for split in splits(root, train_rows=7, valid_rows=2)] == [7, 2]


def test_the_index_follows_the_data(folder, picture):
    first, _ = splits(folder)
    picture(folder / "train" / "ant" / "new.jpg", seed=99)
    second, _ = splits(folder)
    assert (len(first), len(second)) == (24, 25)
    shutil.rmtree(folder / "train" / "bee")
    (folder / "train" / "cat").mkdir()
    picture(folder / "train" / "cat" / "0.jpg")
    shutil.rmtree(folder / "val" / "bee")
    third, _ = splits(folder)
    assert (len(third), third.classes) == (14, ("ant", "cat"))
    assert len({split.digest for split in (first, second, third)}) == 3


def test_a_class_that_had_no_image_yet(folder, picture):
    (folder / "train" / "cat").mkdir()
    assert splits(folder)[0].classes == CLASSES
    picture(folder / "train" / "cat" / "0.jpg")
    assert splits(folder)[0].classes == (*CLASSES, "cat")


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_changed_shard_is_read_again(form, folder, tmp_path):
    root = (as_parquet if form == "parquet" else as_shards)(folder, tmp_path / "other")
    before, _ = splits(root)
    path = before.pictures.raw.store.path(0)
    os.utime(path, ns=(0, 0))
    touched, _ = splits(root)
    assert touched.fingerprint != before.fingerprint
    assert touched.digest == before.digest
    shutil.copytree(root, tmp_path / "copy")
    assert splits(tmp_path / "copy")[0].digest == before.digest
    path.unlink()
    assert len(splits(root)[0]) == 14


def test_a_broken_index_is_made_again(folder, cache):
    before, _ = splits(folder)
    for damage in (b"", b"\x93NUMPY", b"{}"):
        for path in cache.glob("index/*/*"):
            path.write_bytes(damage)
        equal(before, splits(folder)[0])


def test_an_index_that_cannot_be_kept(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "file"))
    assert any("index of the images could not be cached" in note for note in splits(folder)[0].notes)


def test_memory_or_files(folder, monkeypatch):
    data = Data("set", folder, size=16)
    assert isinstance(load(data, quiet=True)[0], Images)
    assert isinstance(load(replace(data, augment="resized-crop-flip"), quiet=True)[0], Stream)
    always, _ = load(replace(data, stream="always", skip_unreadable=True), quiet=True)
    assert isinstance(always, Stream)
    assert any("decoded while training, at 16x16" in note for note in always.notes)
    assert not any("left out" in note for note in always.notes)
    monkeypatch.setattr(streaming, "RESIDENT_BYTES", 30 * 3 * 16 * 16)
    assert isinstance(load(data, quiet=True)[0], Images)
    monkeypatch.setattr(streaming, "RESIDENT_BYTES", 30 * 3 * 16 * 16 - 1)
    assert isinstance(load(data, quiet=True)[0], Stream)
    # What is decoded once notices a file that changes under its own name, index or not.
    path = folder / "train" / "ant" / "00.jpg"
    memory = replace(data, train_rows=20, valid_rows=2)
    before, _ = load(memory, quiet=True)
    assert isinstance(before, Images)
    path.write_bytes((folder / "train" / "ant" / "02.jpg").read_bytes())
    after, _ = load(memory, quiet=True)
    assert not torch.equal(after.images[0], before.images[0])


def test_the_usual_size_is_224(folder):
    train, valid = splits(folder, size=None)
    assert train.size == valid.size == (224, 224)


def windows(order, block):
    """The blocks in which a run of the order stays."""
    return [set(block[order[start : start + 8]].tolist()) for start in range(0, len(order), 8)]


def test_large_parquet_is_shuffled_in_windows(folder, tmp_path, monkeypatch):
    """As many row groups as fit are mixed; each is read once in an epoch, whatever the number of ranks."""
    root = as_parquet(folder, tmp_path / "other", rows=4)
    whole, _ = splits(root)
    weight = whole.pictures.raw.store.weight
    assert len(weight) == 7  # 4, 4, 2 and 4, 4, 4, 2 rows
    monkeypatch.setattr(stores, "KEPT_BYTES", int(5 * weight.mean()))
    train, _ = splits(root)
    loader = training(train, 6, augment="", seed=2)
    block = torch.tensor([0] * 4 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 4 + [5] * 4 + [6] * 2)
    orders = [loader.order(number) for number in range(6)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(24))
        changes = block[order].tolist()
        runs = [sorted({k for k, b in enumerate(changes) if b == number}) for number in range(7)]
        assert max(run[-1] - run[0] for run in runs) < 8  # two row groups of 4 at most
        assert changes != sorted(changes)
    assert len({tuple(order.tolist()) for order in orders}) == 6
    loads = []
    load_group = stores.Parquet._load
    monkeypatch.setattr(stores.Parquet, "_load", lambda s, n, c: loads.append(n) or load_group(s, n, c))
    train = pickle.loads(pickle.dumps(train))  # nothing is at hand yet, as in a new process
    found = epoch(train)
    assert sorted(loads) == list(range(7))
    assert sum(kept.nbytes for kept in train.pictures.raw.store._kept.values()) <= stores.KEPT_BYTES
    assert torch.equal(found[1], loader.order(1))
    shares = [[b.main for b in training(train, 6, augment="", seed=2, rank=r, world=2).epoch(1)] for r in range(2)]
    together = torch.cat([view.input for pair in zip(*shares, strict=True) for view in pair])
    assert torch.equal(together, found[0])
    # Which pictures they are does not depend on the windows.
    assert torch.equal(found[0][found[1].argsort()], epoch(whole)[0][epoch(whole)[1].argsort()])


def refuses(root, *words, **kw):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked below)
        epoch(splits(root, **kw)[0])
    for word in words:
        assert str(word) in str(caught.value), str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_unreadable_images_are_left_out(form, folder, tmp_path, truncate, monkeypatch):
    """The same rows as from memory; they are looked for once, and again when a file comes or goes."""
    truncate(folder / "train" / "bee" / "05.jpg")
    (folder / "val" / "ant" / "02.jpg").write_text("no image")
    root = folder if form == "folder" else as_parquet(folder, tmp_path / "p")
    data = Data("set", root, size=16, augment="flip", skip_unreadable=True, stream="never", workers=0)
    memory, files = load(data, quiet=True), load(replace(data, stream="always"), quiet=True)
    for one, two, count in zip(memory, files, (23, 5), strict=True):
        assert isinstance(two, Stream)
        assert torch.equal(two.decoded(torch.arange(count)), one.images)
        assert torch.equal(two.labels, one.labels)
    left_out = [note for note in files[0].notes if "left out" in note]
    assert len(left_out) == 2
    assert "1 of 24 images cannot be read and were left out" in left_out[0]
    assert "truncated" in left_out[0]
    cropped = replace(data, stream="always", augment="resized-crop-flip")
    with monkeypatch.context() as patch:
        patch.setattr(unreadable, "_failures", None)
        assert len(load(cropped, quiet=True)[0]) == 23
    if form == "folder":
        (folder / "train" / "ant" / "new.jpg").write_text("no image")
        assert any("2 of 25 images cannot be read" in note for note in load(cropped, quiet=True)[0].notes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_an_image_that_cannot_be_read_is_named(form, workers, folder, tmp_path, truncate):
    truncate(folder / "train" / "bee" / "05.jpg")
    if form == "folder":
        refuses(folder, folder / "train" / "bee" / "05.jpg", "cannot be read", "truncated", workers=workers)
        (folder / "train" / "bee" / "05.jpg").write_text("no image")
        refuses(folder, "05.jpg", "not an image that Pillow can identify", workers=workers)
    elif form == "parquet":
        root = as_parquet(folder, tmp_path / "other")
        refuses(root, "train-00000-of-00002.parquet, row 5", "truncated", workers=workers)
    else:
        root = as_shards(folder, tmp_path / "other")
        refuses(root, "set-train-0.tar, member ./05.jpg", "truncated", workers=workers)


def test_a_file_that_goes_while_it_is_used(folder, tmp_path):
    root = as_parquet(folder, tmp_path / "other")
    train, _ = splits(root)
    path = root / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:100])
    train = pickle.loads(pickle.dumps(train))  # nothing is at hand yet, as in a new process
    with pytest.raises(ValueError, match=r"train-00001.*cannot be read as Parquet"):
        epoch(train)
    train, _ = splits(folder)
    (folder / "train" / "ant" / "00.jpg").unlink()
    with pytest.raises(ValueError, match=r"00\.jpg cannot be read: no such file"):
        epoch(train)


def tar(path, *members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add(archive, name, data)


def test_shards_that_say_too_little(tmp_path):
    refused = [
        ([("0.cls", b"1")], "train.tar, sample 0 has no image (jpg"),
        ([("0.jpg", b"x")], "sample 0 has no label (cls"),
        ([("a/0.jpg", b"x"), ("a/0.cls", b"")], "sample a/0 has the label ''"),
        ([("0.jpg", b"x"), ("0.json", b"[1")], "0.json: no JSON object"),
        ([("0.jpg", b"x"), ("0.json", b'{"labl": 1}')], "0.json has no 'label'; did you mean 'labl'?"),
        ([("0.jpg", b"x"), ("0.json", b'{"label": 1.5}')], "has the label 1.5"),
        ([("0.txt", b"x")], "sample 0 has no image"),
        ([], "has no samples"),
    ]
    for number, (members, words) in enumerate(refused):
        tar(tmp_path / str(number) / "train.tar", *members)
        refuses(tmp_path / str(number), words)
    members = [("0.jpg", b"x"), ("0.cls", b"1")]
    tar(tmp_path / "named" / "train.tar", *members)
    refuses(tmp_path / "named", "has no 'clss'; did you mean 'cls'?", label="clss")
    refuses(tmp_path / "named", "has no 'jgp'; did you mean 'jpg'?", image="jgp")
    tar(tmp_path / "held" / "test.tar", *members)
    refuses(tmp_path / "held", "no training shards", "test.tar")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "train.tar").write_bytes((tmp_path / "named" / "train.tar").read_bytes()[:700])
    refuses(tmp_path / "cut", "train.tar cannot be read as tar")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train.tar.gz").touch()
    refuses(tmp_path / "packed", "is compressed")


def test_endings_and_hidden_members(folder, tmp_path):
    """Two images to a sample; folders and what macOS adds do not count."""
    members = []
    for key, data, label in samples(folder, "train"):
        members += [(f"x/{key}.seg.png", b"mask"), (f"x/._{key}.jpg", b"mac"), (f"x/{key}.JPG", data)]
        members += [(f"x/{key}.kind", str(label).encode())]
    tar(tmp_path / "other" / "train" / "00.tar", *members)
    tar(tmp_path / "other" / "val" / "00.tar", *members[:24])
    train, valid = splits(tmp_path / "other", label="kind", image="jpg")
    equal(train, splits(folder)[0])
    assert len(valid) == 6


def test_rows_of_names(tmp_path):
    strings = stores.Strings.of(["a", "", "äö", os.fsdecode(b"\xff")])
    assert [strings[place] for place in range(4)] == ["a", "", "äö", os.fsdecode(b"\xff")]
    assert len(strings) == 4
    files = stores.Files.of([tmp_path / "a", Path("/elsewhere")], tmp_path)
    assert files.read(np.array([1, 0])) == [Path("/elsewhere"), tmp_path / "a"]
