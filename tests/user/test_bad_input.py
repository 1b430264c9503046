"""Bad input to the command line: a clear error before the first step, and nothing left behind."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def files(tmp_path, good, shell):
    """Things to name on the command line."""
    weights = load_file(good / "teacher" / "student.safetensors")
    save_file({**weights, "fc.bias": weights["fc.bias"] * torch.nan}, tmp_path / "nan.safetensors")
    twelve = dict(weights)
    for name in ("fc.weight", "fc.bias"):
        twelve[name] = torch.cat([weights[name], weights[name][:2]])
    save_file(twelve, tmp_path / "twelve.safetensors")
    save_file(load_file(good / "student.safetensors"), tmp_path / "other.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("do not lose me")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "typo.py").write_text("from potstill import Fit\n\n\ndef recipe(smoke):\n    return Fit(epocks=3)\n")
    (tmp_path / "syntax.py").write_text("x = (\n")
    (tmp_path / "none.py").write_text("x = 3\n")
    (tmp_path / "table.csv").write_text("path,kind\na.png,cat\n")
    return tmp_path


BAD = [
    # methods, models, recipes, options
    ("--method icdd", ["unknown objective 'icdd'", "did you mean 'icd'"]),
    ("--method kd+icdd:2", ["method 'kd+icdd:2'", "did you mean 'icd'"]),
    ("--method icd(alfa=1)", ["no option 'alfa'", "did you mean 'alpha'"]),
    ("--method icd:x", ["weight 'x' is not a number"]),
    ("--method icd~shufled", ["did you mean 'shuffled'"]),
    ("--methods kd kd", ["'kd' is written twice"]),
    ("--methods", ["no method"]),
    ("--student resnet9", ["unknown model 'resnet9'", "did you mean 'resnet8'"]),
    ("--teacher wrn_40", ["unknown model 'wrn_40'", "did you mean 'wrn_40_2'"]),
    ("--student resnet8 --student.width 3", ["resnet8 has no argument 'width'"]),
    ("--fit.epoch 3", ["--fit.epoch;", "did you mean '--fit.epochs'"]),
    ("--studnt resnet8", ["--studnt;", "did you mean '--student'"]),
    ("--fit.epochs 0", ["fit.epochs must be at least 1"]),
    ("--fit.epochs many", ["--fit.epochs", "'many'"]),
    ("--fit.clip 0", ["fit.clip must be positive"]),
    ("--fit.momentum 1.5", ["fit.momentum must lie in [0, 1)"]),
    ("--fit.milestones 60 80", ["fractions of the run"]),
    ("--seeds 0", ["seeds must be at least 1"]),
    ("--precision bf61", ["unknown precision 'bf61'", "did you mean 'bf16'"]),
    ("--device tpu9", ["device 'tpu9' cannot be used"]),
    ("--fit.batch-size 1 --method icd", ["batch of 1", "at least 2"]),
    # data
    ("--data.root nowhere", ["no such folder or file: nowhere"]),
    ("--data.root empty", ["empty is empty", "Parquet"]),
    ("--data.root table.csv", ["no label column", "path, kind"]),
    ("--data cifra100", ["unknown data set 'cifra100'", "did you mean 'cifar100'"]),
    ("--data.train-rows 5000", ["train_rows=5000", "1796"]),
    # teachers
    ("--teacher.checkpoint no.pth", ["no weights at no.pth"]),
    ("--teacher.checkpoint broken.pth", ["broken.pth cannot be read as weights"]),
    ("--teacher.checkpoint other.safetensors", ["do not fit SmallCNN", "the model has"]),
    ("--teacher.checkpoint twelve.safetensors", ["checkpoint has 12 classes, the model 10"]),
    ("--teacher resnet20 --teacher.checkpoint other.safetensors", ["do not fit", "missing"]),
    ("--teacher.checkpoint nan.safetensors --method kd", ["NaN"]),
    ("--teacher.checkpoint nan.safetensors --method student", ["NaN", "validation data"]),
    ("--teacher.mean 0.5", ["give both mean and std"]),
    ("--teacher.mean 0.5 0.5 0.5 --teacher.std 1 1 1", ["3 values", "1 channel"]),
    ("--student.mean 0.5 --student.std 0", ["std must be positive"]),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[words for words, _ in BAD])
def test_bad_options(shell, files, nothing_left, words, said):
    before = sorted(path.name for path in files.iterdir())
    status, out, err = shell("distill", "small.py", "--precision", "float32", *words.split(), "--out", "out")
    assert status in (1, 2)
    assert not out
    # tyro draws a box around its own messages and folds them
    text = " ".join(err.replace("│", " ").split())
    for part in said:
        assert part in text, err
    assert "Traceback" not in err
    assert sorted(path.name for path in files.iterdir()) == before


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("smal", ["no recipe 'smal'"]),
        ("cifar20_smal", ["did you mean 'cifar20_small'"]),
        ("nowhere.py", ["no recipe 'nowhere.py'"]),
        ("empty", ["no recipe 'empty'", "is it data? --data.root empty"]),
        ("file", ["no recipe 'file'", "--data.root file"]),
        ("typo.py", ["recipe typo.py, line 5", "unexpected keyword argument 'epocks'"]),
        ("syntax.py", ["recipe syntax.py, line 1", "never closed"]),
        ("none.py", ["none.py does not define recipe"]),
    ],
)
def test_bad_recipes(shell, files, nothing_left, recipe, said):
    status, out, err = shell("distill", recipe, "--out", "out")
    assert (status, out) == (1, "")
    assert all(part in err for part in said), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("out", "said"),
    [("file", "file is a file"), ("taken", "taken is not empty and is no run"), ("file/run", "Not a directory")],
)
def test_output_folders_that_are_none(shell, files, out, said):
    status, _, err = shell("distill", "small.py", "--precision", "float32", "--out", out)
    assert status == 1
    assert said in err
    assert "Traceback" not in err
    assert (files / "taken" / "thesis.tex").read_text() == "do not lose me"
    assert [path.name for path in (files / "taken").iterdir()] == ["thesis.tex"]


def test_another_run_is_refused_and_unharmed(shell, good):
    before = {path: path.read_bytes() for path in good.rglob("*") if path.is_file()}
    status, _, err = shell("distill", "small.py", "--out", good)
    assert status == 1
    assert "holds another run" in err
    assert "--resume" in err
    assert before == {path: path.read_bytes() for path in good.rglob("*") if path.is_file()}


def test_resume_needs_a_folder(shell, tmp_path):
    status, _, err = shell("distill", "small.py", "--resume")
    assert status == 1
    assert "--resume needs --out" in err
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "recipe.json").write_text("{")
    status, _, err = shell("distill", "small.py", "--resume", "--out", "torn")
    assert status == 1
    assert "torn/recipe.json cannot be read" in err


def test_labels_out_of_range(shell, tmp_path, nothing_left):
    from PIL import Image

    lines = ["path,label"]
    for number in range(6):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number % 2 if number != 4 else -1}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    status, _, err = shell("distill", "small.py", "--data.root", "labels.csv", "--out", "out")
    assert status == 1
    assert "label -1" in err
    assert "4.png" in err


def test_a_failed_try_does_not_block_the_next(shell, files):
    words = (
        "distill",
        "small.py",
        "--precision",
        "float32",
        "--method",
        "student",
        "--fit.epochs",
        "1",
        "--out",
        "out",
    )
    assert shell(*words, "--fit.lr", "1e12")[0] == 1
    assert shell(*words, "--teacher.checkpoint", "nan.safetensors")[0] == 1
    status, _, err = shell(*words)
    assert status == 0, err
    assert json.loads((files / "out" / "summary.json").read_text())["rows"][0]["n"] == 1
