"""The folder of a run: whose it is, and when it goes again."""

import json
from pathlib import Path

import pytest
from PIL import Image

from potstill import runs
from potstill.precision import Choice, Precision

MINE = {"recipe": {"fit": {"lr": 0.1, "milestones": (0.5, 0.9)}, "data": {"root": Path("photos")}}, "environment": {}}


def changed(**fit):
    return {**MINE, "recipe": {**MINE["recipe"], "fit": {**MINE["recipe"]["fit"], **fit}}}


def fails(out, error=ZeroDivisionError, *, leaving=None, resume=False):
    """A run that claims its folder, perhaps leaves something in it, and fails."""
    with runs.claim(out, MINE, resume):
        if leaving:
            leaving.mkdir() if not leaving.suffix else leaving.write_text("{}")
        raise error


def test_a_claimed_folder_stays_once_something_was_trained(tmp_path):
    out = tmp_path / "deep" / "run"
    with pytest.raises(ZeroDivisionError):
        fails(out, leaving=out / "teacher")
    assert json.loads((out / "recipe.json").read_text())["recipe"]["fit"]["milestones"] == [0.5, 0.9]
    with pytest.raises(ValueError, match="holds another run; continue it with --resume"):
        fails(out)
    with pytest.raises(ZeroDivisionError):
        fails(out, resume=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_goes_when_nothing_was(tmp_path, error):
    for existed in (False, True):
        out = tmp_path / str(existed)
        if existed:
            out.mkdir()
        with pytest.raises(error):
            fails(out, error, leaving=out / "precision.json")
        assert out.exists() == existed
        assert not existed or not list(out.iterdir())


def test_a_resumed_run_keeps_its_folder_whatever_happens(tmp_path):
    with runs.claim(tmp_path / "run", MINE, resume=False):
        pass
    with pytest.raises(ZeroDivisionError):
        fails(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "recipe.json").exists()


def test_differences_are_named(tmp_path):
    with runs.claim(tmp_path, MINE, resume=False):
        pass
    assert runs.check(tmp_path, MINE, resume=True)
    assert runs.check(tmp_path, {**MINE, "environment": {"torch": "other"}}, resume=True)
    with pytest.raises(ValueError, match=r"differ in fit.lr \(0.1, now 0.2\)$"):
        runs.check(tmp_path, changed(lr=0.2), resume=True)
    with pytest.raises(ValueError, match=r"fit.clip \(None, now 1.0\)"):
        runs.check(tmp_path, changed(clip=1.0), resume=True)
    with pytest.raises(ValueError, match=r"fit.milestones \(\[0.5, 0.9\], now \[0.5\]\)"):
        runs.check(tmp_path, changed(milestones=(0.5,)), resume=True)


def test_what_changes_no_bit_may_change(tmp_path):
    """Processes that decode, when checkpoints are saved, and how the data is read where the pixels are known."""

    def run(workers=None, stream="auto", seconds=60.0, **more):
        data = {"root": "photos", "workers": workers, "stream": stream}
        fit = {"lr": 0.1, "checkpoint_seconds": seconds}
        return {"recipe": {"data": data, "fit": fit, "teacher_fit": {**fit}}, "environment": {}, **more}

    for place, more in ((tmp_path / "new", {"data": {"train": "a"}}), (tmp_path / "old", {})):
        with runs.claim(place, run(**more), resume=False):
            (place / "more").touch()
        assert runs.check(place, run(4, seconds=5.0, **more), resume=True)
    assert runs.check(tmp_path / "new", run(stream="always"), resume=True)
    with pytest.raises(
        ValueError, match=r"other images or labels; they were read with data.stream auto, and .* always"
    ):
        runs.check(tmp_path / "new", run(stream="always", data={"train": "b"}), resume=True)
    with pytest.raises(ValueError, match=r"differ in data.stream \('auto', now 'always'\)"):
        runs.check(tmp_path / "old", run(stream="always"), resume=True)


def test_precision_is_settled_once(tmp_path):
    def never():
        raise AssertionError("measured again")

    times = {"float32": 2.0, "bf16": 1.0}
    measured = runs.settle_precision(tmp_path, "auto", lambda: Choice(Precision(bf16=True), times))
    assert measured == (Precision(bf16=True), "bf16 (1.0 ms a step; float32 2.0 ms, 2.0x)")
    assert runs.settle_precision(tmp_path, "auto", never) == measured
    assert runs.settle_precision(tmp_path, "bf16", never) == measured
    with pytest.raises(ValueError, match="begun in bf16 and cannot be resumed in float32"):
        runs.settle_precision(tmp_path, "float32", never)
    assert runs.settle_precision(None, "float32", never)[0] == Precision()


def test_where_a_number_comes_from():
    found = runs.environment()
    assert found["torch"]
    assert found["cpu"]
    assert found["python"].startswith("3.")


def test_other_data_is_not_resumed(shell, tmp_path):
    """Rows that saw other images, or another split of them, do not belong in one table."""
    for number in range(24):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(folder / f"{number}.png")
    small = ("--student", "small_cnn", "--teacher", "small_cnn", "--fit.batch-size", "4", "--precision", "float32")
    words = ("distill", "--data.root", "photos", "--smoke", *small, "--out", "run")
    assert shell(*words)[0] == 0
    for path in tmp_path.glob("photos/*/*.png"):
        path.touch()
    assert shell(*words, "--resume")[0] == 0
    Image.new("L", (8, 8), 255).save(tmp_path / "photos" / "a" / "new.png")
    status, _, err = shell(*words, "--resume")
    assert status == 1
    assert "run was begun with other images or labels" in err


def test_a_run_of_an_older_version_goes_on(shell, tmp_path):
    """Its recipe lacks leaves that came later; their usual values are what it had."""
    words = ("distill", "small.py", "--precision", "float32", "--json", "--out", "run")
    assert shell(*words)[0] == 0
    record = tmp_path / "run" / "recipe.json"
    written = json.loads(record.read_text())
    for part, leaf in (("data", "held_out"), ("data", "augment"), ("fit", "clip")):
        del written["recipe"][part][leaf]
    record.write_text(json.dumps(written))
    status, _, err = shell(*words, "--resume")
    assert status == 1
    assert "data.augment ('crop-flip', now 'crop')" in err  # small.py has another than the usual one
    written["recipe"]["data"]["augment"] = "crop"
    record.write_text(json.dumps(written))
    assert shell(*words, "--resume")[0] == 0
