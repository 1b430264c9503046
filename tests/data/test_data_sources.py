"""Reading what users have: the embedded set, Parquet, photographs, CSV."""

import hashlib
import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from potstill.data import Data, load

LABEL_INFO = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}}


def png(value, size=(6, 5), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, values, labels, info=LABEL_INFO, struct=True, **columns):
    images = [png(value) for value in values]
    images = [{"bytes": image, "path": None} for image in images] if struct else images
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    table = pa.table({"image": pa.array(images, kind), "label": labels, **columns})
    if info:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": info}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_digits():
    train, valid = load(Data())
    assert train.images.shape == (200, 1, 8, 8)
    assert valid.images.shape == (1597, 1, 8, 8)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert set(train.images.unique().tolist()) <= {round(value * 255 / 16) for value in range(17)}
    assert int(train.images.max()) == 255
    assert (train.channels, train.size, len(train)) == (1, (8, 8), 200)
    assert train.classes == tuple("0123456789")
    assert train.labels.bincount().tolist() == [20] * 10
    # Any prefix of whole tens is balanced.
    for rows in (10, 50, 130):
        assert train.labels[:rows].bincount().tolist() == [rows // 10] * 10
    # Together they are scikit-learn's images, each once.
    from sklearn.datasets import load_digits

    ours = torch.cat([train.images, valid.images]).reshape(-1, 64).numpy().astype(np.float64) * 16 / 255
    assert Counter(map(bytes, np.rint(ours).astype(np.uint8))) == Counter(
        map(bytes, load_digits().data.astype(np.uint8))
    )


def test_digits_rows_and_size():
    train, valid = load(Data(train_rows=500, valid_rows=100, size=16))
    assert train.images.shape == (500, 1, 16, 16)
    assert len(valid) == 100
    # A smaller training set is judged on the same validation images, and is a prefix.
    small, same = load(Data(train_rows=50))
    default, usual = load(Data())
    assert torch.equal(same.images, usual.images)
    assert torch.equal(small.images, default.images[:50])
    assert small.fingerprint != default.fingerprint
    assert default.fingerprint == load(Data(data_seed=5))[0].fingerprint
    with pytest.raises(ValueError, match="train_rows=1797"):
        load(Data(train_rows=1797))
    with pytest.raises(ValueError, match="valid_rows=1598"):
        load(Data(valid_rows=1598))
    assert "no effect" in load(Data(label="coarse"))[0].notes[0]


def test_cifar100(shared, capsys):
    folder = shared("cifar100")
    data = Data("cifar100", folder, train_rows=2100, valid_rows=200)
    train, valid = load(data)
    assert capsys.readouterr().out == ""
    assert (train.name, train.split, valid.split) == ("cifar100", "train", "test")
    assert train.images.shape == (2100, 3, 32, 32)
    assert train.classes[:2] == ("apple", "aquarium_fish")
    assert train.labels.tolist() == [row % 100 for row in range(2100)]
    assert train.notes == ()
    table = pq.read_table(sorted(folder.glob("train-*"))[0]).slice(0, 40)
    for row, image in enumerate(table["img"].to_pylist()):
        expected = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
        assert np.array_equal(train.images[row].permute(1, 2, 0).numpy(), expected)
    coarse, _ = load(Data("cifar100", folder, label="coarse_label", train_rows=2100, valid_rows=200), quiet=True)
    assert capsys.readouterr().err == ""
    assert len(coarse.classes) == 20
    assert torch.equal(coarse.images, train.images)
    assert coarse.fingerprint != train.fingerprint
    pairs = set(zip(train.labels.tolist(), coarse.labels.tolist(), strict=True))
    assert len(pairs) == 100  # each fine class lies in one superclass


def test_cifar100_pixels_are_the_published_ones(shared):
    _, valid = load(Data("cifar100", shared("cifar100"), train_rows=100), quiet=True)
    pixels = valid.images.permute(0, 2, 3, 1).contiguous().numpy()
    assert hashlib.sha256(pixels.tobytes()).hexdigest().startswith("251c361c44f8b917f8035acde9b98362")
    assert np.array(valid.mean) == pytest.approx(
        pixels.sum(axis=(0, 1, 2), dtype=np.int64) / 10000 / 1024 / 255, abs=1e-14
    )
    assert np.array(valid.std) == pytest.approx((pixels / 255).std(axis=(0, 1, 2)), abs=1e-9)


def test_grey_and_jpeg_tables(shared):
    train, valid = load(Data("fashion_mnist", shared("fashion_mnist_subset"), train_rows=300, valid_rows=50))
    assert train.images.shape == (300, 1, 28, 28)
    assert train.classes[0] == "T - shirt / top"
    assert valid.labels.bincount().tolist() == [5] * 10
    tiny, held = load(Data(root=shared("tiny_imagenet_subset"), train_rows=400, valid_rows=20, size=32))
    assert tiny.images.shape == (400, 3, 32, 32)  # a few are grey files
    assert (tiny.name, held.split) == ("tiny_imagenet_subset", "valid")
    assert "64x64 to 32x32" in tiny.notes[0]


def test_parquet_without_metadata_and_without_split(tmp_path):
    write_parquet(tmp_path / "set" / "images.parquet", range(40), [row % 2 for row in range(40)], None, False)
    train, valid = load(Data(root=tmp_path / "set", valid_fraction=0.25))
    assert (len(train), len(valid)) == (30, 10)
    assert train.classes == ("0", "1")
    assert valid.labels.bincount().tolist() == [5, 5]
    assert any("10 of 40" in note for note in train.notes)
    seen = torch.cat([train.images, valid.images])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == list(range(40))
    assert torch.equal(train.labels, train.images[:, 0, 0, 0].long() % 2)
    again, _ = load(Data(root=tmp_path / "set", valid_fraction=0.25, data_seed=9))
    assert torch.equal(again.images, train.images)


def test_parquet_layouts_and_columns(tmp_path):
    root = tmp_path / "hub"
    for part in range(2):
        write_parquet(
            root / "data" / f"train-0000{part}-of-00002.parquet",
            range(part * 10, part * 10 + 10),
            [0, 1, 2, 0, 1, 2, 0, 1, 2, 0],
            other=[str(row) + "x" for row in range(10)],
        )
    columns = {"other": [str(row) + "x" for row in range(6)]}
    write_parquet(root / "data" / "test-00000-of-00001.parquet", range(100, 106), [0, 1, 2] * 2, **columns)
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", range(50, 56), [0, 1, 2] * 2, **columns)
    train, valid = load(Data("", root, train_rows=13))
    assert train.images[:, 0, 0, 0].tolist() == list(range(13))
    assert train.classes == ("cat", "dog", "eel")
    assert valid.split == "validation"
    assert valid.images[0, 0, 0, 0] == 50
    words, _ = load(Data("", root, label="other"))
    assert words.classes == tuple(f"{row}x" for row in range(10))
    assert words.labels.tolist() == list(range(10)) * 2


def test_photographs(photos):
    before = listing(photos)
    train, valid = load(Data(root=photos, valid_fraction=1 / 3))
    assert (train.name, train.classes) == ("photos", ("apple", "sky"))
    assert train.images.shape == (8, 3, 64, 64)
    assert train.labels.bincount().tolist() == [4, 4]
    assert valid.labels.bincount().tolist() == [2, 2]
    notes = " ".join(train.notes)
    assert "64x64" in notes
    assert "4 of 12" in notes
    apples = train.images[train.labels == 0].float().mean(dim=(0, 2, 3))
    assert apples[0] > 150
    assert apples[2] < 90
    assert listing(photos) == before


def test_prefix_of_a_folder_is_balanced(photos):
    train, _ = load(Data(root=photos, train_rows=4, size=16))
    assert train.labels.bincount().tolist() == [2, 2]
    assert train.images.shape == (4, 3, 16, 16)


def test_folders_with_splits(tmp_path, picture):
    for number in range(3):
        for name, colour in (("cat", (250, 0, 0)), ("dog", (0, 250, 0))):
            picture(tmp_path / "Train" / name / "images" / f"{number}.png", colour, (20, 10))
            picture(tmp_path / "val" / name / f"{number}.png", colour, (30, 30))
    train, valid = load(Data(root=tmp_path))
    assert train.images.shape == (6, 3, 10, 20)  # one size, not square, kept
    assert valid.images.shape == (6, 3, 10, 20)
    assert valid.split == "val"
    assert valid.labels.tolist() == [0, 1] * 3
    assert "size of the training images" in valid.notes[0]
    channel = valid.images.float().mean(dim=(2, 3)).argmax(dim=1)
    assert torch.equal(channel, valid.labels)


def test_modes_keep_their_meaning(tmp_path):
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).astype(np.uint16)
    flat = np.full((8, 8), 100, dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(deep).save(tmp_path / name / "16bit.png")
        Image.fromarray(flat).save(tmp_path / name / "8bit.png")
        Image.fromarray(flat > 50).save(tmp_path / name / "1bit.png")
    train, valid = load(Data(root=tmp_path, valid_fraction=0.3))
    assert train.channels == 1  # all grey
    pixels = torch.cat([train.images, valid.images]).unique(dim=0)
    values = {tuple(image.flatten().tolist()) for image in pixels}
    assert values == {(100,) * 64, (255,) * 64, tuple((deep >> 8).flatten().tolist())}


def test_upright(tmp_path):
    """A photograph that a camera stored lying on its side is turned as viewers turn it."""
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, 10:] = 255
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            exif = Image.Exif()
            exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png", exif=exif)
    train, _ = load(Data(root=tmp_path, valid_fraction=0.5))
    assert train.size == (20, 10)
    assert int(train.images[:, :, :10].max()) == 0
    assert int(train.images[:, :, 10:].min()) == 255


def test_csv(tmp_path, picture):
    lines = ["file;label;split"]
    for number in range(8):
        colour = ((250, 0, 0), (0, 250, 0))[number % 2]
        picture(tmp_path / "pictures" / f"{number}.png", colour, (8, 8))
        lines.append(f"pictures/{number}.png;{('zebra', 'ant')[number % 2]};{'test' if number > 5 else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    for root in (tmp_path / "list.csv", tmp_path):
        train, valid = load(Data(root=root))
        assert train.classes == ("ant", "zebra")
        assert train.labels.tolist() == [1, 0] * 3
        assert valid.labels.tolist() == [1, 0]
        assert valid.split == "test"
        assert train.images[0, :, 0, 0].argmax() == 0
    (tmp_path / "list.csv").write_text("\n".join(lines).replace("zebra", "7").replace("ant", "2"))
    train, _ = load(Data(root=tmp_path))
    assert train.labels.tolist() == [7, 2] * 3  # numbers stay what they are
    assert len(train.classes) == 8
    assert any("6 of 8 classes have no training image" in note for note in train.notes)


def test_csv_per_split(tmp_path, picture):
    for split, count in (("train", 4), ("valid", 2)):
        rows = ["image,label"]
        for number in range(count):
            picture(tmp_path / split / f"{number}.png", (number, 0, 0), (8, 8))
            rows.append(f"{split}/{number}.png,{number % 2}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows))
    train, valid = load(Data(root=tmp_path))
    assert (len(train), len(valid), valid.split) == (4, 2, "valid")


def test_unreadable_files(photos, truncate, cache):
    bad = truncate(photos / "apple" / "3.jpg")
    (photos / "sky" / "note.jpg").write_text("not an image")
    (photos / "sky" / "empty.png").touch()
    with pytest.raises(ValueError, match="cannot be read") as caught:
        load(Data(root=photos, valid_fraction=0.1))
    message = str(caught.value)
    assert "3 of" in message
    assert all(str(path) in message for path in (bad, photos / "sky" / "note.jpg"))
    assert "skip-unreadable" in message
    assert not list(cache.rglob("*.npy"))
    train, valid = load(Data(root=photos, valid_fraction=0.1, skip_unreadable=True))
    assert len(train) + len(valid) == 11
    assert len(train.labels) == len(train.images)
    assert any("left out" in note and "3 of" in note for note in train.notes)
    again, _ = load(Data(root=photos, valid_fraction=0.1, skip_unreadable=True))
    assert again.notes == train.notes
    assert torch.equal(again.images, train.images)


def test_nothing_readable(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_text("x")
    with pytest.raises(ValueError, match=r"train: 4 of 4 .* set aside: 2 of 2"):
        load(Data(root=tmp_path, skip_unreadable=True))


def test_names_that_differ_by_case(tmp_path):
    write_parquet(tmp_path / "train.parquet", range(12), ["Cat", "cat", "dog"] * 4, None)
    train, _ = load(Data(root=tmp_path))
    assert any("'Cat' and 'cat'" in note for note in train.notes)
