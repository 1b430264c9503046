"""Bad data: the message names what is wrong, where, and what is there; nothing is left behind."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from potstill.data import Data, load


def table(rows=6, **columns):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return pa.table({"image": pa.array([stream.getvalue()] * rows, pa.binary()), **columns})


def refuses(data, *words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked below)
        load(data, quiet=True)
    for word in words:
        assert str(word) in str(caught.value), str(caught.value)


@pytest.fixture(autouse=True)
def nothing_cached(cache):
    yield
    assert not list(cache.rglob("*.npy"))


def test_names():
    refuses(Data("cifar1000"), "did you mean 'cifar100'")
    refuses(Data(""), "--data.root", "digits")
    refuses(Data(size=0), "size must be at least 1")


def test_missing_and_empty_folders(tmp_path):
    (tmp_path / "photos").mkdir()
    refuses(Data(root=tmp_path / "photo"), "no such folder", "did you mean 'photos'?")
    refuses(Data(root=tmp_path / "no" / "where"), "no such folder", tmp_path / "no")
    refuses(Data(root=tmp_path / "photos"), "is empty", "Parquet")
    (tmp_path / "photos" / "notes.txt").touch()
    refuses(Data(root=tmp_path / "photos"), "nothing to read", "class folders", "CSV", "1 file(s) with .txt")
    refuses(Data(root=tmp_path / "photos" / "notes.txt"), "is a file", ".csv")


def test_one_folder_too_high(tmp_path, picture):
    (tmp_path / "all" / "cifar").mkdir(parents=True)
    pq.write_table(table(label=[0, 1] * 3), tmp_path / "all" / "cifar" / "train-0.parquet")
    refuses(Data(root=tmp_path / "all"), "cifar holds Parquet files")
    for name in ("cat", "dog"):
        picture(tmp_path / "up" / "set" / name / "0.png")
    refuses(Data(root=tmp_path / "up"), "only one class folder", "set meant, with cat, dog?")


def test_folder_splits(tmp_path, picture):
    picture(tmp_path / "only" / "test" / "cat" / "0.png")
    refuses(Data(root=tmp_path / "only"), "no folder train", "test")
    for name in ("cat", "dog"):
        picture(tmp_path / "set" / "train" / name / "0.png")
    picture(tmp_path / "set" / "test" / "dgo" / "0.png")
    refuses(Data(root=tmp_path / "set"), "dgo", "no training image", "did you mean 'dog'?")
    picture(tmp_path / "loose" / "1.jpg")
    refuses(Data(root=tmp_path / "loose"), "nothing to read", "1 file(s) with .jpg")
    picture(tmp_path / "few" / "a" / "0.png")
    picture(tmp_path / "few" / "b" / "0.png")
    refuses(Data(root=tmp_path / "few"), "no class has two images")
    picture(tmp_path / "few" / "b" / "1.png")
    refuses(Data(root=tmp_path / "few", valid_fraction=1.5), "valid_fraction", "1.5")


def test_corrupt_parquet(tmp_path):
    path = tmp_path / "train-0.parquet"
    pq.write_table(table(label=[0, 1] * 3), path)
    path.write_bytes(path.read_bytes()[:-20])
    refuses(Data(root=tmp_path), path, "cannot be read as Parquet")
    path.write_bytes(b"")
    refuses(Data(root=tmp_path), path, "cannot be read as Parquet")


def test_parquet_splits(tmp_path):
    pq.write_table(table(label=[0, 1] * 3), tmp_path / "test-0.parquet")
    refuses(Data(root=tmp_path), "no training files", "test-0.parquet")
    pq.write_table(table(0, label=pa.array([], pa.int64())), tmp_path / "train-0.parquet")
    refuses(Data(root=tmp_path), "'train' has no rows")
    pq.write_table(table(target=[0, 1] * 3), tmp_path / "train-0.parquet")
    refuses(Data(root=tmp_path), "test-0.parquet", "other columns")


def test_columns(tmp_path):
    pq.write_table(table(fine=[0, 1] * 3, coarse=[0, 0, 1] * 2), tmp_path / "train-0.parquet")
    refuses(Data(root=tmp_path), "--data.label", "fine (int64)", "coarse (int64)")
    refuses(Data(root=tmp_path, label="coarze"), "did you mean 'coarse'?")
    refuses(Data(root=tmp_path, label="fine", image="imgae"), "did you mean 'image'?")
    refuses(Data(root=tmp_path, label="fine", image="coarse"), "'coarse' holds int64, not images")
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "train-0.parquet")
    refuses(Data(root=tmp_path), "--data.image", "text (string)")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, -1, 0, 1, 0], ["row 2", "label -1", "expected 0 to 1"]),
        ([-1] * 6, ["label -1"]),
        ([0, None, 1, 0, 1, 1], ["row 1", "no label"]),
        ([0.5, 1.0, 0.0, 1.0, 0.0, 1.0], ["double", "integer or a string"]),
        ([0] * 6, ["only one class"]),
    ],
)
def test_labels(tmp_path, labels, words):
    pq.write_table(table(label=labels), tmp_path / "train-0.parquet")
    refuses(Data(root=tmp_path), *words)


def test_label_outside_named_classes(tmp_path):
    info = b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
    data = table(label=[0, 1, 0, 1, 2, 0]).replace_schema_metadata({"huggingface": info})
    pq.write_table(data, tmp_path / "train-0.parquet")
    refuses(Data(root=tmp_path), "row 4", "label 2", "expected 0 to 1", "1 of 6")


def test_validation_class_without_training_image(tmp_path):
    pq.write_table(table(label=["cat", "dog"] * 3), tmp_path / "train-0.parquet")
    pq.write_table(table(label=["cat", "dgo"] * 3), tmp_path / "test-0.parquet")
    refuses(Data(root=tmp_path), "row 1", "'dgo'", "did you mean 'dog'?")


def test_rows(tmp_path):
    pq.write_table(table(label=[0, 1] * 3), tmp_path / "train-0.parquet")
    pq.write_table(table(2, label=[0, 1]), tmp_path / "test-0.parquet")
    refuses(Data(root=tmp_path, train_rows=7), "train_rows=7", "6 rows")
    refuses(Data(root=tmp_path, valid_rows=3), "valid_rows=3", "2 rows")
    refuses(Data(root=tmp_path, train_rows=0), "train_rows=0")


def test_csv(tmp_path, picture):
    picture(tmp_path / "0.png")
    file = tmp_path / "list.csv"
    for text, words in (
        ("", ["no path column"]),
        ("path,label\n", ["has no rows"]),
        ("path,kind\n0.png,1\n", ["no label column", "path, kind"]),
        ("thing,label\n0.png,1\n", ["no path column", "thing, label"]),
        ("path,label\n0.png,1\n0.png\n", ["line 3", "no label"]),
        ("path,label\n,1\n", ["line 2", "no path"]),
        ("path,label,split\n0.png,1,trian\n", ["line 2", "unknown split 'trian'", "did you mean 'train'"]),
        ("path,label,split\n0.png,1,test\n", ["no training rows"]),
        ("path,label\n0.png,1\n0.png,-3\n", ["line 3", "label -3"]),
        ("path,label\n0.png,a\n0.png,a\n", ["only one class"]),
        ("path,label\n0.png,0\n1.png,0\n0.png,1\n0.png,1\n", ["1.png (", "line 3): no such file", "1 of"]),
    ):
        file.write_text(text)
        refuses(Data(root=file), *words)
    file.write_text("path,label\n0.png,1\n0.png,0\n")
    refuses(Data(root=file, label="lable"), "did you mean 'label'?")
    file.write_bytes(b"path,label\n\xff\xfe,1\n")
    refuses(Data(root=file), "UTF-8")
