"""`potstill transfer`: what a run's networks know about other data."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import potstill.transfer.run as module
from potstill.transfer import read_transfer

QUICK = ("--data", "digits", "--data.size", "8", "--epochs", "3", "--quiet")
NAME = "digits-frozen-8-views"


@pytest.fixture
def run(demo, tmp_path):
    """A copy of the demo: a teacher, four methods, two seeds."""
    return shutil.copytree(demo, tmp_path / "run")


@pytest.fixture
def photos(tmp_path):
    """Grey images of 10x10: stripes one way or the other."""
    rng = np.random.default_rng(0)
    for number in range(40):
        stripes = np.tile([0, 0, 160, 160, 0], 2).astype(np.int64)
        pixels = rng.integers(0, 90, (10, 10)) + (stripes if number % 2 else stripes[:, None])
        place = tmp_path / "photos" / ("test" if number > 27 else "train") / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    return tmp_path / "photos"


def test_a_run_is_probed_once(shell, run, monkeypatch):
    status, out, err = shell("transfer", run, *QUICK, "--json")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    rows = {row["method"]: row for row in answer["rows"]}
    assert list(rows) == ["student", "kd", "icd", "icd+kd"]
    assert all((row["n"], row["seeds"]) == (2, [0, 1]) for row in rows.values())
    assert answer["teacher"]["model"] == "small_cnn"
    assert answer["teacher"]["top1"] > 15  # chance is 10
    assert rows["student"]["difference"] is None
    gained = [a - b for a, b in zip(rows["icd"]["top1"], rows["student"]["top1"], strict=True)]
    assert rows["icd"]["difference"]["mean"] == pytest.approx(sum(gained) / 2)
    assert rows["icd"]["difference"]["verdict"] == "not powered"
    files = sorted(run.rglob(f"transfer/{NAME}.json"))
    assert len(files) == 1 + 8 + 1
    kept = {path: path.read_bytes() for path in files}
    monkeypatch.setattr(module, "linear_probe", None)  # which a second probe would call
    status, again, _ = shell("transfer", run, *QUICK, "--json")
    assert (status, json.loads(again)["rows"]) == (0, answer["rows"])
    assert kept == {path: path.read_bytes() for path in sorted(run.rglob(f"transfer/{NAME}.json"))}
    (table,) = read_transfer(run)
    assert (table["arm"], table["views"], table["rows"]) == ("frozen", "8-views", answer["rows"])


def test_the_table(shell, run):
    words = [word for word in QUICK if word != "--quiet"]
    status, out, err = shell("transfer", run, *words, "--methods", "student", "kd", "--views", "plain")
    assert status == 0
    assert "digits, linear probe (frozen, plain): top-1" in out
    assert [line.split()[0] for line in out.splitlines() if " ± " in line and "mean" not in line] == ["student", "kd"]
    assert "icd" not in out
    assert "kd seed 1: " in err


def test_the_drifting_arm_beside_the_frozen_one(shell, run):
    cell = run / "kd" / "seed1"
    weights = (cell / "student.safetensors").read_bytes()
    for words in ((), ("--arm", "drifting")):
        assert shell("transfer", cell, *QUICK, *words)[0] == 0
    assert (cell / "student.safetensors").read_bytes() == weights
    still, drifted = (
        json.loads((cell / "transfer" / f"digits-{name}.json").read_text())
        for name in ("frozen-8-views", "drifting-fresh")
    )
    assert still["drift"] is None
    assert drifted["drift"] > 0
    assert still["settings"]["network"] == drifted["settings"]["network"]
    assert [entry.name for entry in (cell / "transfer").iterdir() if entry.is_dir()] == []
    assert read_transfer(run) == []  # one student makes no table


def test_a_grid_is_its_runs(shell, run, tmp_path):
    grid = tmp_path / "grid"
    for pair in ("a-b", "c-d"):
        shutil.copytree(run, grid / "pairs" / pair)
    status, out, _ = shell("transfer", grid, *QUICK, "--methods", "student", "--json")
    assert status == 0
    assert [table["pair"] for table in json.loads(out)["pairs"]] == ["a-b", "c-d"]
    assert [table["pair"] for table in read_transfer(grid)] == ["a-b", "c-d"]


def test_a_folder_of_images(shell, run, photos):
    status, out, err = shell(
        "transfer", run / "kd" / "seed0", "--data", photos, "--epochs", "30", "--batch-size", "7", "--json", "--quiet"
    )
    assert status == 0, err
    answer = json.loads(out)
    assert (answer["data"], answer["rows"][0]["n"], answer["teacher"]) == ("photos", 1, None)
    assert answer["rows"][0]["top1_mean"] > 60


def test_a_teacher_that_the_run_did_not_train(shell, run, tmp_path):
    """Its weights are where the recipe says."""
    _, out, _ = shell("transfer", run, *QUICK, "--methods", "kd", "--json")
    wanted = json.loads(out)["teacher"]["top1"]
    (run / "teacher" / "student.safetensors").rename(tmp_path / "weights.safetensors")
    shutil.rmtree(run / "teacher")
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["recipe"]["teacher"]["checkpoint"] = str(tmp_path / "weights.safetensors")
    (run / "recipe.json").write_text(json.dumps(recipe))
    _, out, _ = shell("transfer", run, *QUICK, "--methods", "kd", "--json")
    assert json.loads(out)["teacher"]["top1"] == pytest.approx(wanted)
    (tmp_path / "weights.safetensors").unlink()
    status, out, err = shell("transfer", run, *QUICK[:-1], "--methods", "kd", "--json")
    assert (status, json.loads(out)["teacher"]) == (0, None)
    assert "the teacher is left out: its weights are not at" in " ".join(err.split())


def test_results_of_other_settings_stand_beside(shell, run):
    cell = run / "kd" / "seed0"
    assert shell("transfer", cell, *QUICK)[0] == 0
    before = (cell / "transfer" / f"{NAME}.json").read_bytes()
    status, _, err = shell("transfer", cell, *QUICK, "--epochs", "2", "--lr", "0.1")
    assert status == 1
    assert "they differ in epochs (3, now 2); lr (0.05, now 0.1); name these results with --tag" in err
    assert shell("transfer", cell, *QUICK, "--epochs", "2", "--lr", "0.1", "--tag", "fast")[0] == 0
    assert shell("transfer", cell, "--data", "digits", "--smoke", "--quiet")[0] == 0
    assert {path.name for path in (cell / "transfer").iterdir()} == {
        f"{name}.json" for name in (NAME, f"{NAME}-fast", f"{NAME}-smoke")
    }
    assert (cell / "transfer" / f"{NAME}.json").read_bytes() == before
    shutil.copyfile(run / "icd" / "seed0" / "student.safetensors", cell / "student.safetensors")
    status, _, err = shell("transfer", cell, *QUICK)
    assert status == 1
    assert "they differ in network (" in err


def test_mobile_and_shuffle_networks_learn_at_a_fifth_of_the_rate(shell, run, tmp_path):
    from potstill.models import build
    from potstill.student import save_student

    card = json.loads((run / "student.json").read_text())
    for name in ("MobileNetV2", "resnet8"):
        model = build(name, num_classes=10, in_channels=1)
        card["model"] = {"name": name, "num_classes": 10, "in_channels": 1}
        save_student(tmp_path / name, model, card)
        words = (
            "--data",
            "digits",
            "--data.train-rows",
            "20",
            "--data.valid-rows",
            "20",
            "--batch-size",
            "10",
            "--views",
            "1",
        )
        assert shell("transfer", tmp_path / name, *words, "--epochs", "1", "--quiet")[0] == 0
        found = json.loads((tmp_path / name / "transfer" / "digits-frozen-1-views.json").read_text())
        assert found["settings"]["lr"] == pytest.approx(0.01 if name == "MobileNetV2" else 0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run",), "which data? e.g. --data tiny_imagenet"),
        (("--data", "digits"), "potstill transfer needs a run folder"),
        (("rum", "--data", "digits"), "rum holds no student: there is no such folder; did you mean 'run'?"),
        (("run", "--data", "stl1O"), "unknown data set 'stl1O'"),
        (("run", "--data", "digits", "--methods", "kdd"), "has no finished student of method 'kdd'; did you mean 'kd'"),
        (("run", "--data", "digits", "--views", "fesh"), "--views 'fesh' is no number; did you mean 'fresh'?"),
        (("run", "--data", "digits", "--views", "0"), "--views must be at least 1, got 0; fresh gives"),
        (("run", "--data", "digits", "--epocs", "3"), "no option --epocs; did you mean '--epochs'"),
        (("run", "--data", "digits", "--precision", "fp8"), "unknown precision 'fp8'"),
        (("run/kd/seed0", "--data", "digits", "--methods", "kd"), "holds one student, not several methods"),
    ],
)
def test_what_cannot_be_probed(words, message, shell, run):
    status, out, err = shell("transfer", *words)
    assert (status, out) == (1, "")
    assert message in err
    assert not list(run.rglob("transfer"))


def test_images_of_other_channels(shell, run, photos):
    for path in photos.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    status, _, err = shell("transfer", run, "--data", photos, "--quiet")
    assert status == 1
    assert "takes 1 channel(s), the images of photos have 3" in err


def test_tiny_imagenet(shell, run, shared, tmp_path):
    """With the protocol's own mean and standard deviation, at 32x32, and a network that learned from colour."""
    from potstill.models import build
    from potstill.student import save_student

    root = shared("data", "tiny_imagenet_subset")
    card = {"model": {"name": "resnet8", "num_classes": 20, "in_channels": 3}, "channels": 3, "size": [32, 32]}
    save_student(tmp_path / "one", build("resnet8", num_classes=20), card)
    rows = ("--data.train-rows", "200", "--data.valid-rows", "40", "--epochs", "1", "--views", "1", "--quiet")
    status, _, err = shell("transfer", tmp_path / "one", "--data", "tiny_imagenet", "--data.root", root, *rows)
    assert status == 0, err
    found = json.loads((tmp_path / "one" / "transfer" / "tiny_imagenet-frozen-1-views.json").read_text())
    assert found["width"] == 64
    assert len(found["history"]) == 1
