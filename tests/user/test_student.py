"""A trained student, taken away and used."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import potstill
from potstill import Data
from potstill.cli import main
from potstill.models import small_cnn


@pytest.fixture(scope="session")
def valid():
    from potstill.data import load

    return load(Data())[1]


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A run on colour photographs of mixed sizes, and the folder of the photographs."""
    root = tmp_path_factory.mktemp("colours")
    noise = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        for number in range(10):
            path = root / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.array(colour) + noise.integers(-30, 30, (20 + number, 40, 1))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    words = ["--data.root", root / "photos", "--data.size", "16", "--data.augment", "flip", "--method", "student"]
    words += ["--student", "small_cnn", "--teacher", "small_cnn", "--fit.batch-size", "6", "--fit.epochs", "6"]
    words = [*words, "--fit.lr", "0.02", "--precision", "float32", "--quiet", "--out", root / "run"]
    assert main(["distill", *(str(word) for word in words)]) == 0
    return root


def test_predictions_on_raw_images_equal_the_runs_own(good, valid):
    student = potstill.load(good)
    said = student.predict(valid.images)
    right = [valid.classes[label] == name for label, name in zip(valid.labels.tolist(), said, strict=True)]
    summary = json.loads((good / "summary.json").read_text())
    assert 100 * np.mean(right) == pytest.approx(summary["rows"][0]["top1_mean"])
    assert 100 * np.mean(right) > 30


def test_every_form_of_one_image(good, valid, tmp_path):
    student, count = potstill.load(good), 12
    expected = student.predict(valid.images[:count])
    arrays = [image[0].numpy() for image in valid.images[:count]]
    pictures = [Image.fromarray(array) for array in arrays]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(count)]
    for form in (arrays, pictures, paths, [str(path) for path in paths], [p.convert("RGB") for p in pictures]):
        assert student.predict(form) == expected
    assert student.predict([np.stack([array] * 3, axis=2) for array in arrays]) == expected
    assert student.predict(pictures[0]) == expected[:1]
    assert student.predict(valid.images[:count].float() / 255) == expected
    assert student.predict([]) == []
    logits = student(valid.images[:count])
    assert logits.shape == (count, 10)
    assert [student.classes[k] for k in logits.argmax(1)] == expected


def test_other_sizes_are_brought_to_the_students_own(colours):
    student = potstill.load(colours / "run")
    assert student.classes == ("blue", "red")
    for name in student.classes:
        paths = sorted((colours / "photos" / name).iterdir())
        assert student.predict(paths) == [name] * len(paths)
        assert student.predict(Image.open(paths[0]).resize((300, 200))) == [name]
    seen = []
    student.model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    student.predict([Image.new("RGB", (500, 90)), Image.new("L", (16, 16)), Image.new("CMYK", (7, 9))])
    assert seen == [(1, 3, 16, 16)] * 3
    with pytest.raises(ValueError, match=r"images of \[30, 30\] pixels, the student learned from \[16, 16\]"):
        student.predict(torch.zeros(2, 3, 30, 30, dtype=torch.uint8))


def test_photographs_lying_on_their_side_are_turned(colours):
    student, seen = potstill.load(colours / "run"), []
    student.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    upright, turned = Image.fromarray(pixels), Image.fromarray(pixels).rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it
    path = colours / "turned.png"
    turned.save(path, exif=exif)
    student.predict([upright, path])
    assert torch.equal(seen[0], seen[1])


def test_any_cell_can_be_loaded(demo):
    headline, cell = potstill.load(demo), potstill.load(demo / "icd+kd" / "seed0")
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(headline(x), cell(x))
        assert not torch.equal(headline(x), potstill.load(demo / "kd" / "seed1")(x))
        assert potstill.load(demo / "teacher")(x).shape == (4, 10)


def test_the_weights_are_plain_safetensors(good):
    weights = load_file(good / "student.safetensors")
    plain = small_cnn(num_classes=10, in_channels=1)
    plain.load_state_dict(weights)
    card = json.loads((good / "student.json").read_text())
    assert card["classes"] == [str(k) for k in range(10)]
    assert {"model", "preprocess", "channels", "size"} <= card.keys()
    x = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    mean, std = card["preprocess"]["mean"][0], card["preprocess"]["std"][0]
    with torch.no_grad():
        torch.testing.assert_close(potstill.load(good)(x), plain.eval()((x / 255 - mean) / std))


def test_what_is_no_student(good, demo, tmp_path):
    def refuses(path, *words, **options):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked below)
            potstill.load(path, **options)
        for word in words:
            assert word in str(caught.value), str(caught.value)

    refuses(good.parent / "rum", "no such folder", "did you mean 'run'")
    refuses(tmp_path, "holds no student", "expected student.json")
    shutil.copytree(demo, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "student.json").unlink()
    refuses(tmp_path / "unfinished", "not finished", "kd/seed0")
    shutil.copytree(good, tmp_path / "torn")
    weights = tmp_path / "torn" / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    refuses(tmp_path / "torn", "student.safetensors cannot be read as weights")
    weights.unlink()
    refuses(tmp_path / "torn", "no weights at")
    (tmp_path / "torn" / "student.json").write_text("{")
    refuses(tmp_path / "torn", "student.json is damaged")
    (tmp_path / "torn" / "student.json").write_text("[]")
    refuses(tmp_path / "torn", "does not describe a student")
    refuses(good, "do not fit", "different", model=small_cnn(num_classes=10, in_channels=3))


def test_what_is_no_image(good, tmp_path):
    student = potstill.load(good)
    (tmp_path / "text.png").write_text("no picture")

    def refuses(images, *words):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked below)
            student.predict(images)
        for word in words:
            assert word in str(caught.value), str(caught.value)

    refuses(tmp_path / "none.png", "none.png", "no such file")
    refuses(tmp_path / "text.png", "text.png cannot be read")
    refuses([7], "cannot predict on a int")
    refuses(np.zeros((8, 8)), "float64", "expected uint8")
    refuses(np.zeros((1, 8, 8), np.uint8), "[1, 8, 8]", "[H, W, 3]")
    refuses(torch.zeros(2, 3, 8, 8), "[2, 3, 8, 8]", "[B, 1, height, width]")
    refuses(torch.zeros(1, 8, 8), "[1, 8, 8]", "[B, 1, height, width]")
    refuses(torch.zeros(2, 1, 8, 8, dtype=torch.int64), "int64")
