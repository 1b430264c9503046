"""Images without labels: any folder of images, in whatever folders they lie."""

from dataclasses import replace

import pytest
import torch

from potstill.data import Data, Preprocess, batches, load, training


@pytest.fixture
def holidays(tmp_path, picture):
    """Twelve photographs, at the top and in folders of folders, and files that are none."""
    root = tmp_path / "holidays"
    for number in range(12):
        folder = ["", "2019", "2020/sea/evening"][number % 3]
        picture(root / folder / f"{number}.png", (20 * number, 40, 200), (8, 8), seed=number)
    (root / "2019" / "diary.txt").write_text("rain")
    (root / ".thumbnails").mkdir()
    picture(root / ".thumbnails" / "0.png")
    return root


def test_every_image_below_the_root_is_taken(holidays):
    train, valid = load(Data(root=holidays, unlabelled=True, valid_fraction=0.25), quiet=True)
    assert (len(train), len(valid)) == (9, 3)
    colours = torch.cat([train.images, valid.images])[:, 0].float().flatten(1).mean(1)
    assert torch.allclose(colours.sort().values, 20.0 * torch.arange(12), atol=11)
    assert not train.labelled
    assert train.classes == valid.classes == ()
    assert any("1 file(s) that are not images" in note for note in train.notes)
    assert any("3 of 12 training images were set aside (valid_fraction" in note for note in train.notes)


def test_batches_have_no_label(holidays):
    data = Data(root=holidays, unlabelled=True)
    for stream in ("never", "always"):
        train, valid = load(replace(data, stream=stream, workers=0), quiet=True)
        loader = training(train, 4, augment="none")
        assert all(batch.main.label is None for batch in loader.epoch(0))
        assert all(batch.main.label is None for batch in batches(valid, 4))
    assert torch.equal(train.labels, torch.zeros(len(train), dtype=torch.int64))


def test_a_prefix_is_a_sample_of_all_folders(tmp_path, picture):
    for number in range(40):
        picture(tmp_path / "all" / "ab"[number // 20] / f"{number}.png", (255 * (number // 20), 0, 0), (4, 4))
    train, _ = load(Data(root=tmp_path / "all", unlabelled=True, train_rows=10), quiet=True)
    red = train.images[:, 0].float().flatten(1).mean(1) > 128
    assert 1 <= red.sum() <= 9


def test_train_and_val_are_the_splits(tmp_path, picture):
    root = tmp_path / "split"
    for number in range(5):
        picture(root / "train" / "deep" / f"{number}.png", size=(6, 6))
    picture(root / "val" / "0.png", size=(6, 6))
    picture(root / "test" / "0.png", size=(6, 6))
    picture(root / "loose.png", size=(6, 6))
    train, valid = load(Data(root=root, unlabelled=True), quiet=True)
    assert (len(train), len(valid), valid.split) == (5, 1, "val")
    assert any("1 folder(s) left out: test" in note for note in train.notes)
    assert any("1 image(s) left out" in note for note in train.notes)


def test_a_train_folder_alone_is_a_folder_like_others(tmp_path, picture):
    for number in range(4):
        picture(tmp_path / "trips" / ("train" if number % 2 else "boat") / f"{number}.png", size=(6, 6))
    train, valid = load(Data(root=tmp_path / "trips", unlabelled=True, valid_fraction=0.25), quiet=True)
    assert len(train) + len(valid) == 4


def test_the_same_folder_with_labels_is_other_data(photos):
    """The index and the decoded images of one are not taken for those of the other."""
    labelled, _ = load(Data(root=photos, size=16), quiet=True)
    plain, _ = load(Data(root=photos, size=16, unlabelled=True), quiet=True)
    again, _ = load(Data(root=photos, size=16), quiet=True)
    assert labelled.classes == again.classes == ("apple", "sky")
    assert plain.classes == ()
    assert labelled.digest == again.digest != plain.digest
    assert Preprocess.of(plain).mean is not None


def test_a_new_folder_is_noticed(holidays, picture):
    data = Data(root=holidays, unlabelled=True, stream="always", workers=0)
    before = sum(map(len, load(data, quiet=True)))
    picture(holidays / "2020" / "new" / "one.png", size=(8, 8))
    assert sum(map(len, load(data, quiet=True))) == before + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no image below .*Parquet, tar or CSV"),
        (lambda root: (root / "train-0.parquet").write_bytes(b"PAR1"), "no image below .*1 file.s. with .parquet"),
    ],
)
def test_refusals_say_what_is_there(tmp_path, make, message):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "note.txt").write_text("x")
    make(tmp_path / "bare")
    with pytest.raises(ValueError, match=message):
        load(Data(root=tmp_path / "bare", unlabelled=True), quiet=True)


def test_a_root_is_needed_and_is_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"name it with --data.root FOLDER"):
        load(Data(unlabelled=True), quiet=True)
    (tmp_path / "set.csv").write_text("path\na.png\n")
    with pytest.raises(ValueError, match=r"is a file; data.unlabelled takes a folder"):
        load(Data(root=tmp_path / "set.csv", unlabelled=True), quiet=True)
