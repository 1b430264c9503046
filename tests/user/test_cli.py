"""The command line, as it is used."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from potstill.engine import Engine

OWN = ("--smoke", "--seeds", "1", "--precision", "float32")
ONE = ("small.py", *OWN)


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def photos(tmp_path):
    """Colour pictures of two classes and several sizes, as a folder of class folders and as a CSV."""
    lines = ["path,label"]
    for name, colour in (("apple", (200, 40, 40)), ("sky", (40, 60, 200))):
        for number in range(12):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + number, 24), colour).save(path)
            lines.append(f"photos/{name}/{number}.png,{name}")
    (tmp_path / "photos.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "photos"


def test_help_and_version(shell):
    status, out, _ = shell("--help")
    assert status == 0
    assert "potstill distill" in out
    assert shell()[0] == 2
    assert shell("--version")[1].startswith("potstill 0.")
    status, out, _ = shell("distill", "--help")
    assert status == 0
    assert all(flag in out for flag in ("--data.root", "--fit.epochs", "--resume", "--methods"))
    status, out, err = shell("distil")
    assert status == 2
    assert not out
    assert "did you mean 'distill'" in err


def test_the_demo_compares_four_methods(demo):
    summary = json.loads((demo / "summary.json").read_text())
    assert [row["method"] for row in summary["rows"]] == ["student", "kd", "icd", "icd+kd"]
    assert summary["dataset"] == "digits"
    assert all(row["n"] == 2 and len(row["top1"]) == 2 for row in summary["rows"])
    assert summary["teacher"]["top1"] > 10
    assert {row["expansion"] for row in summary["rows"]} >= {"ce:1", "ce:0.1+kd:0.9", "ce:1+icd:1+kd:1"}


def test_the_run_folder(demo):
    for name in ("recipe.json", "summary.json", "report.html", "student.safetensors", "student.json", "precision.json"):
        assert (demo / name).stat().st_size > 0, name
    for cell in ("teacher", "student/seed0", "kd/seed1", "icd/seed0", "icd+kd/seed1"):
        metrics = rows((demo / cell / "metrics.jsonl").read_text())
        timings = rows((demo / cell / "timings.jsonl").read_text())
        assert [row["epoch"] for row in metrics] == [row["epoch"] for row in timings]
        assert {"step", "lr", "loss", "terms", "top1"} <= metrics[0].keys()
        assert "seconds" not in metrics[0]
        assert list((demo / cell / "checkpoint").iterdir())
    assert not list(demo.rglob("*.tmp"))
    recipe = json.loads((demo / "recipe.json").read_text())
    assert len(metrics) == recipe["recipe"]["fit"]["epochs"]
    assert recipe["environment"]["torch"]
    headline = (demo / "icd+kd" / "seed0" / "student.safetensors").read_bytes()
    assert (demo / "student.safetensors").read_bytes() == headline
    report = (demo / "report.html").read_text()
    assert "icd+kd" in report
    assert "https://cdn" not in report


def test_json_is_all_of_stdout(shell):
    status, out, err = shell("distill", *ONE, "--methods", "student", "kd", "--json", "--out", "run")
    assert status == 0
    answer = json.loads(out)
    assert list(answer) == ["dataset", "teacher", "rows", "run"]
    assert [row["method"] for row in answer["rows"]] == ["student", "kd"]
    assert {"top1_mean", "top1_std", "n", "seconds"} <= answer["rows"][0].keys()
    assert "top1" in answer["teacher"]
    assert Path(answer["run"], "summary.json").exists()
    assert "method kd: ce:0.1+kd:0.9" in err
    assert "teacher: " in err


def test_quiet_says_nothing(shell):
    words = ("--methods", "student", "--fit.warmup", "0.1", "--fit.schedule", "constant")
    assert shell("distill", *ONE, *words, "--quiet", "--out", "run") == (0, "", "")
    assert Path("run/report.html").exists()


def test_the_table_keeps_the_names_of_the_methods(shell):
    _, out, err = shell("distill", *ONE, "--methods", "student", "icd:0.5+kd", "--out", "run")
    assert "icd:0.5+kd" in out
    assert "run/report.html" in out
    assert "method icd:0.5+kd: ce:1+icd:0.5+kd:1" in err


def test_seeds_decide(shell):
    def metrics(out, *words):
        assert shell("distill", *ONE, "--methods", "icd", "--quiet", "--out", out, *words)[0] == 0
        return next(Path(out, "icd").glob("seed*/metrics.jsonl")).read_bytes()

    first = metrics("a")
    assert metrics("b") == first
    assert metrics("c", "--seed", "1") != first
    assert Path("c/icd/seed1").exists()
    assert metrics("d", "--data.data-seed", "1") != first


def test_short_names_and_leaves(shell):
    words = ("--student", "resnet8", "--teacher", "small_cnn", "--method", "kd:0.5", "--data", "digits")
    status, _, err = shell("distill", *ONE, *words, "--fit.batch-size=40", "--fit.epochs", "1", "--out", "run")
    assert status == 0, err
    recipe = json.loads(Path("run/recipe.json").read_text())["recipe"]
    assert recipe["student"]["name"] == "resnet8"
    assert recipe["teacher"]["width"] == 16
    assert recipe["methods"] == ["kd:0.5"]
    assert recipe["fit"]["batch_size"] == 40
    assert rows(Path("run/kd:0.5/seed0/metrics.jsonl").read_text())[-1]["step"] == 5


def test_another_network_does_not_keep_the_shape_of_the_recipes(shell):
    status, _, err = shell("distill", *ONE, "--teacher", "resnet8", "--method", "student", "--out", "run")
    assert status == 0, err
    assert json.loads(Path("run/summary.json").read_text())["teacher"]["model"] == "resnet8"


def test_recipes_by_path_and_by_name(shell, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text(
        '"""My own."""\nfrom potstill import Fit, Network, Recipe\n'
        "def recipe(smoke=False):\n"
        "    small = Network('small_cnn')\n"
        "    fit = Fit(epochs=1 if smoke else 9, batch_size=50)\n"
        "    return Recipe(teacher=small, student=small, methods=('kd',), fit=fit)\n"
    )
    assert shell("distill", "mine", "--smoke", "--precision", "float32", "--out", "a", "--quiet")[0] == 0
    assert shell("distill", "--smoke", "recipes/mine.py", "--precision", "float32", "--out", "b", "--quiet")[0] == 0
    a, b = (json.loads(Path(run, "recipe.json").read_text()) for run in "ab")
    assert a["recipe"] == b["recipe"]
    assert a["recipe"]["fit"]["epochs"] == 1
    names = [row["recipe"] for row in json.loads(shell("list", "recipes", "--json")[1])]
    assert "mine" in names


def test_list(shell):
    for what, key, name in (("methods", "method", "icd"), ("models", "model", "resnet8"), ("data", "data", "digits")):
        found = json.loads(shell("list", what, "--json")[1])
        assert name in [row[key] for row in found]
        status, out, err = shell("list", what)
        assert (status, err) == (0, "")
        assert name in out
    sizes = {row["model"]: row["parameters"] for row in json.loads(shell("list", "models", "--json")[1])}
    assert sizes["wrn_40_2"] == 2_255_156
    assert shell("list", "modells")[0] == 2


def test_report_again(shell, demo):
    shell("report", demo)  # draws the maps that so short a run leaves out
    before = (demo / "report.html").read_text()
    assert "t-SNE of the logits" in before
    status, out, _ = shell("report", demo)
    assert (status, out) == (0, f"{demo / 'report.html'}\n")
    assert (demo / "report.html").read_text() == before
    status, out, err = shell("report", "nowhere")
    assert (status, out) == (1, "")
    assert "summary.json" in err


def test_your_own_photos(shell, photos):
    small = ("--student", "small_cnn", "--teacher", "small_cnn", "--fit.batch-size", "8", "--data.size", "16")
    status, _, err = shell("distill", "--data.root", "photos", *OWN, *small, "--out", "a")
    assert status == 0, err
    assert "set aside" in err
    status, _, err = shell("distill", "--data.root=photos.csv", *OWN, *small, "--out", "b")
    assert status == 0, err
    summary = json.loads(Path("b/summary.json").read_text())
    assert [row["method"] for row in summary["rows"]] == ["student", "icd+kd"]
    broken = photos / "sky" / "3.png"
    broken.write_bytes(b"no picture")
    status, _, err = shell("distill", "--data.root", "photos", *OWN, *small, "--out", "c")
    assert status == 1
    assert "1 of" in err
    assert "photos/sky/3.png" in err
    assert not Path("c").exists()
    words = ("--data.skip-unreadable", "--out", "c")
    status, _, err = shell("distill", "--data.root", "photos", *OWN, *small, *words)
    assert status == 0
    assert "left out" in err


def test_settings_without_effect_are_named(shell):
    words = (
        "--fit.optimizer",
        "adamw",
        "--fit.lr",
        "0.001",
        "--fit.momentum",
        "0.5",
        "--fit.milestones",
        "0.5",
        "--fit.shard",
    )
    status, _, err = shell("distill", *ONE, "--method", "student", *words, "--out", "run")
    assert status == 0
    assert "fit.momentum=0.5 has no effect" in err
    assert "fit.milestones=(0.5,) has no effect" in err
    assert "fit.shard=True has no effect: there is one process" in err
    assert "fit.warmup" not in err


def test_a_normalisation_that_would_have_worked(shell, good):
    weights = good / "teacher" / "student.safetensors"
    words = ("--method", "student", "--teacher.checkpoint", weights, "--teacher.mean", "4", "--teacher.std", "0.01")
    status, _, err = shell("distill", *ONE, *words, "--out", "a")
    assert status == 0
    assert "near chance" in err
    flags = shlex.split(err.split("on the command line ")[1].split(")")[0])
    _, _, err = shell("distill", *ONE, "--method", "student", "--teacher.checkpoint", weights, *flags, "--out", "b")
    assert "near chance" not in err
    reached = [json.loads(Path(run, "summary.json").read_text())["teacher"]["top1"] for run in "ab"]
    assert reached[0] < 20
    assert reached[1] > 70


def test_a_poor_teacher_of_our_own_gets_no_advice_on_its_preprocessing(shell):
    _, _, err = shell("distill", *ONE, "--method", "student", "--fit.lr", "1e-6", "--out", "run")
    assert "near chance" in err
    assert "longer training" in err
    assert "normalisation" not in err


@pytest.fixture
def press(monkeypatch):
    """Ctrl-C during a certain step."""

    def at(step):
        taken = []

        def train_on(self, batch):
            taken.append(step)
            if len(taken) == step:
                signal.raise_signal(signal.SIGINT)
            real(self, batch)

        monkeypatch.setattr(Engine, "train_on", train_on)
        return taken

    real = Engine.train_on
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield at
    signal.signal(signal.SIGINT, before)


def test_interrupted_and_resumed(shell, press):
    words = ("distill", *ONE, "--methods", "student", "icd(alpha=0.2)")
    assert shell(*words, "--quiet", "--out", "whole")[0] == 0
    press(20 + 20 + 13)  # teacher, student, and into the second epoch of the third network
    status, out, err = shell(*words, "--json", "--out", "cut")
    assert (status, out) == (130, "")
    line = err.splitlines()[-1]
    assert line.startswith("stopped, checkpoint saved")
    assert list(Path("cut/icd(alpha=0.2)/seed0/checkpoint").iterdir())
    assert not Path("cut/summary.json").exists()
    again = shlex.split(line.split("go on with: potstill ")[1])
    taken = press(0)
    assert shell(*again)[0] == 0
    assert len(taken) == 20 - 13  # only what was missing
    for cell in ("teacher", "student/seed0", "icd(alpha=0.2)/seed0"):
        files = [Path(run, cell, "metrics.jsonl").read_bytes() for run in ("whole", "cut")]
        assert files[0] == files[1], cell
    weights = [Path(run, "student.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_finished_cells_are_not_run_again(shell, press):
    words = ("distill", *ONE, "--methods", "student", "kd", "--quiet", "--out", "run")
    assert shell(*words)[0] == 0
    taken = press(0)
    assert shell(*words, "--resume")[0] == 0
    assert not taken
    Path("run/kd/seed0/result.json").unlink()
    assert shell(*words, "--resume")[0] == 0


def test_ctrl_c_before_the_first_step_leaves_nothing(shell, monkeypatch):
    def measure(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("potstill.cell.choose", measure)
    status, out, err = shell("distill", "--smoke", "--out", "run")
    assert (status, out) == (130, "")
    assert "nothing was written" in err
    assert not Path("run").exists()


def test_another_recipe_is_not_resumed(shell, demo):
    words = ("distill", "--smoke", "--out", demo)
    status, _, err = shell(*words)
    assert status == 1
    assert "--resume" in err
    status, _, err = shell(*words, "--resume", "--fit.lr", "0.7", "--methods", "student")
    assert status == 1
    assert ", now 0.7)" in err
    assert "fit.lr (" in err
    assert "methods" in err
    status, _, err = shell(*words, "--resume", "--seed", "3")
    assert "seed (0, now 3)" in err
    status, _, err = shell(*words, "--resume", "--precision", "bf16")
    assert status == 1
    assert "begun in float32" in err


@pytest.mark.slow
def test_a_real_ctrl_c(tmp_path):
    """From outside, at whatever step the process is in."""
    # A shell in the background starts its children deaf to Ctrl-C.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from potstill.cli import main; sys.exit(main())"
    words = ["--methods", "icd", "--seeds", "1", "--fit.epochs", "10", "--teacher-fit.epochs", "10"]
    command = [sys.executable, "-c", code, "distill", *words, "--precision", "float32", "--json", "--out"]

    def start(*more):
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *more], cwd=tmp_path, text=True, stdout=pipe, stderr=pipe)

    for run, moment in (("early", "teacher/timings.jsonl"), ("late", "icd/seed0/metrics.jsonl"), ("whole", None)):
        process = start(run)
        if moment:
            while not (tmp_path / run / moment).exists() and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
            assert (process.returncode, out) == (130, ""), err
            assert "Traceback" not in err
            assert f"--out {run} --resume" in err.splitlines()[-1]
            process = start(run, "--resume")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["rows"][0]["n"] == 1
    for cell in ("teacher", "icd/seed0"):
        assert len({(tmp_path / run / cell / "metrics.jsonl").read_bytes() for run in ("early", "late", "whole")}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar100", ("cifar20_small", "--methods", "student", "icd~shuffled")),
        ("fashion_mnist_subset", ("--data", "fashion_mnist", "--method", "icd")),
    ],
)
def test_benchmark_data(shell, shared, name, words):
    root = shared("data", name)
    rows = ("--data.train-rows", "128", "--data.valid-rows", "100")
    status, out, err = shell("distill", *words, *OWN, "--data.root", root, *rows, "--json", "--out", "run")
    assert status == 0, err
    assert json.loads(out)["rows"][-1]["n"] == 1
    assert ("shuffled teacher" in err) == (name == "cifar100")
