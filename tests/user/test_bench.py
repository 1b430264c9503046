"""A grid, as a researcher runs it: started, stopped, killed, widened, shared."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import potstill
from potstill.cli import main
from potstill.student import load

GRID = """\
from potstill import Data, Fit, Grid, Network, Recipe

def pair(student, **more):
    return Recipe(
        data=Data(augment="crop", train_rows=100, valid_rows=100),
        teacher=Network("small_cnn", width=16),
        student=student,
        methods=("student", "kd", "icd"),
        seeds=2,
        fit=Fit(epochs={epochs}, batch_size=20, schedule="cosine", checkpoint_steps=5),
    )

def grid(smoke=False):
    narrow, narrower = Network("small_cnn", width=8), Network("small_cnn", width=4)
    return Grid({{"16 → 8": pair(narrow), "16 → 4": pair(narrower)}}, title="digits", seeds={{"kd": 1}})
"""
EPOCHS, MANY = 3, 15
FLOAT32 = ("--precision", "float32")


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """`bench("bench", ...)` in a folder with grid.py: exit status and the JSON answer, or the error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.py").write_text(GRID.format(epochs=EPOCHS))

    def run(*words, command="bench", grid="grid.py"):
        capsys.readouterr()
        status = main([command, grid, *FLOAT32, "--teachers", "teachers", *map(str, words), "--json"])
        said = capsys.readouterr()
        return status, json.loads(said.out) if said.out else said.err

    return run


def learned(out):
    """What every cell logged, by folder: equal for equal trainings."""
    return {
        str(path.parent.relative_to(out)): path.read_text() for path in sorted(out.glob("pairs/*/*/*/metrics.jsonl"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The grid run to its end, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "grid.py").write_text(GRID.format(epochs=EPOCHS))
    words = ["bench", str(folder / "grid.py"), *FLOAT32, "--quiet"]
    assert main([*words, "--out", str(folder / "out"), "--teachers", str(folder / "teachers")]) == 0
    return folder


def test_every_cell_is_a_run_folder_and_the_pair_is_one(whole):
    out = whole / "out"
    cells = sorted(str(path.parent.relative_to(out)) for path in out.glob("pairs/*/*/*/result.json"))
    per_pair = ["icd/seed0", "icd/seed1", "kd/seed0", "student/seed0", "student/seed1"]
    assert cells == [f"pairs/{pair}/{cell}" for pair in ("16-4", "16-8") for cell in per_pair]
    assert len(load(out / "pairs" / "16-8" / "kd" / "seed0").classes) == 10
    assert (out / "pairs" / "16-8" / "report.html").stat().st_size > 100_000
    found = json.loads((out / "summary.json").read_text())
    assert [(pair["pair"], len(pair["summary"]["rows"])) for pair in found["pairs"]] == [("16 → 8", 3), ("16 → 4", 3)]
    assert found["failed"] == []
    icd = found["pairs"][0]["summary"]["rows"][2]
    assert icd["n"] == 2
    assert icd["difference"]["n"] == 2
    assert icd["difference_kd"]["n"] == 1
    assert icd["peak_mib"] is None or icd["peak_mib"] > 50


def test_two_pairs_share_a_teacher(whole):
    kept = [path.parent for path in (whole / "teachers").glob("*/result.json")]
    assert len(kept) == 1
    weights = [path.read_bytes() for path in (whole / "out").glob("pairs/*/teacher/student.safetensors")]
    assert weights == 2 * [(kept[0] / "student.safetensors").read_bytes()]


def test_finished_cells_are_never_run_again_and_a_grid_may_grow(bench, tmp_path):
    assert bench("--out", "out", "--pairs", "16-8", "--methods", "student", "--seeds", 1)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/pairs/*/*/*/*")}
    status, found = bench("--out", "out", "--pairs", "16 → 8", "--methods", "student", "kd", "--seeds", 1)
    assert status == 0
    assert [row["method"] for row in found["pairs"][0]["summary"]["rows"]] == ["student", "kd"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_cell_that_fails_is_reported_and_stops_no_other(bench, tmp_path):
    # 16 and 8 channels: FSP does not apply
    status, found = bench("--out", "out", "--pairs", "16-8", "--methods", "student", "fsp", "icd", "--seeds", 1)
    assert status == 1
    assert [row["method"] for row in found["pairs"][0]["summary"]["rows"]] == ["student", "icd"]
    assert [(cell["method"], cell["seed"]) for cell in found["failed"]] == [("fsp", 0)]
    assert "channels" in found["failed"][0]["error"]
    assert "channels" in (tmp_path / "out/pairs/16-8/fsp/seed0/error.txt").read_text()


def test_processes_give_the_same_bits(bench, whole, tmp_path):
    status, _ = bench("--out", "out", "--jobs", 2)
    assert status == 0
    assert learned(tmp_path / "out") == learned(whole / "out")


def start(folder, *words, epochs):
    """A grid in a process group of its own, so that all of it can be killed."""
    (folder / "grid.py").write_text(GRID.format(epochs=epochs))
    command = [sys.executable, "-m", "potstill", "bench", "grid.py", *FLOAT32, "--teachers", "teachers", "--out", "out"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, "--pairs", "16-8", *words], cwd=folder, stderr=pipe, stdout=pipe, text=True, start_new_session=True
    )


def ended(process):
    _, err = process.communicate()
    assert process.returncode == 0, err


def training(folder, process, method):
    """Wait until a cell of the method is in the middle of its training."""
    for _ in range(12_000):  # a busy machine takes a minute to import and decode
        if list(folder.glob(f"out/pairs/16-8/{method}/*/checkpoint/state.pt")):
            return
        if process.poll() is not None:
            ended(process)
        time.sleep(0.05)
    raise AssertionError("nothing trains")


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The first pair with more epochs, so that there is a middle to be killed in."""
    folder = tmp_path_factory.mktemp("longer")
    ended(start(folder, "--quiet", epochs=MANY))
    return learned(folder / "out")


@pytest.mark.slow
def test_a_killed_grid_resumes_with_the_same_bits(tmp_path, longer):
    process = start(tmp_path, "--jobs", "2", epochs=MANY)
    training(tmp_path, process, "icd")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(learned(tmp_path / "out")) < len(longer) or not list(
        tmp_path.glob("out/pairs/16-8/icd/seed1/result.json")
    )
    ended(start(tmp_path, "--jobs", "2", epochs=MANY))
    assert learned(tmp_path / "out") == longer


@pytest.mark.slow
@pytest.mark.parametrize("where", [("--jobs", "2"), ("--ray", "local", "--jobs", "2")], ids=["processes", "ray"])
def test_a_killed_worker_takes_nothing_with_it(tmp_path, longer, where):
    if "--ray" in where:
        pytest.importorskip("ray", reason="the ray extra is not installed")
    process = start(tmp_path, *where, epochs=MANY)
    training(tmp_path, process, "icd")
    children = psutil.Process(process.pid).children(recursive=True)
    mark = "ray::work" if "--ray" in where else "spawn_main"
    workers = [child for child in children if mark in " ".join(child.cmdline())]
    assert workers  # Ray calls those that do nothing something else
    workers[0].kill()
    ended(process)
    assert learned(tmp_path / "out") == longer


def test_train_makes_what_bench_takes(bench, tmp_path):
    status, cards = bench("--out", "taught", "--pairs", "16-8", command="train")
    assert status == 0
    folder = tmp_path / "teachers" / cards["16 → 8"]["key"]
    assert json.loads((folder / "result.json").read_text())["top1"] == cards["16 → 8"]["top1"]
    before = (folder / "student.safetensors").stat().st_mtime_ns
    assert bench("--out", "out", "--methods", "student", "--seeds", 1)[0] == 0
    assert (folder / "student.safetensors").stat().st_mtime_ns == before
    assert len(list((tmp_path / "teachers").glob("*/result.json"))) == 1


def test_weights_from_elsewhere_can_be_registered(bench, tmp_path, whole):
    weights = next((whole / "teachers").glob("*/student.safetensors"))
    status, found = bench("--pairs", "16-8", "--register", weights, command="train")
    assert status == 0
    assert weights.name in found["registered"]
    status, summary = bench("--out", "out", "--methods", "student", "--seeds", 1)
    assert status == 0
    assert {pair["summary"]["teacher"]["registered"] for pair in summary["pairs"]} == {found["registered"]}
    assert {pair["summary"]["teacher"]["top1"] for pair in summary["pairs"]} == {found["top1"]}
    status, error = bench("--pairs", "16-8", "--register", weights, command="train")
    assert status == 1
    assert "holds this recipe's teacher already" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pairs", "16-9"), "did you mean '16-8'"),
        (("--methods", "icdd"), "did you mean 'icd'"),
        (("--jobs", "0"), "--jobs must be at least 1"),
        (("--precison", "float32"), "did you mean '--precision'"),
        (("--data.root", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(bench, tmp_path, words, message):
    status, error = bench("--out", "out", *words)
    assert status == 1
    assert message in str(error)
    assert not list(tmp_path.glob("out/pairs/*/*/*"))


def test_another_recipe_does_not_go_on_in_the_same_folder(bench):
    assert bench("--out", "out", "--pairs", "16-8", "--methods", "student", "--seeds", 1)[0] == 0
    status, error = bench("--out", "out", "--pairs", "16-8", "--fit.lr", "0.2")
    assert status == 1
    assert "fit.lr (0.05, now 0.2)" in error


def test_a_recipe_is_a_grid_of_one_pair_and_a_grid_is_no_recipe(bench, tmp_path, capsys):
    (tmp_path / "one.py").write_text(
        GRID.format(epochs=1).replace("def grid", "def unused").replace("def pair", "def _p")
    )
    with (tmp_path / "one.py").open("a") as file:
        file.write("\ndef recipe(smoke=False):\n    return _p(Network('small_cnn', width=8))\n")
    status, found = bench("--out", "out", "--methods", "student", "--seeds", 1, grid="one.py")
    assert status == 0
    assert [pair["pair"] for pair in found["pairs"]] == ["small_cnn → small_cnn"]
    assert main(["distill", "grid.py"]) == 1
    assert "it is a grid: potstill bench grid.py" in capsys.readouterr().err


def test_a_grid_checks_itself():
    recipe = potstill.Recipe()
    with pytest.raises(ValueError, match="no pairs"):
        potstill.Grid({})
    with pytest.raises(ValueError, match="share the folder 'a-b'"):
        potstill.Grid({"a → b": recipe, "A-b": recipe})
    with pytest.raises(ValueError, match="did you mean 'icd'"):
        potstill.Grid({"a": recipe}, seeds={"idc": 3})


def test_fair_tuning(bench, tmp_path):
    words = ("--pairs", "16-8", "--methods", "student", "kd", "--seeds", 1, "--tune", 3, "--fit.epochs", 1)
    status, found = bench("--out", "out", *words)
    assert status == 0
    chosen = json.loads((tmp_path / "out" / "tuning.json").read_text())["16 → 8"]
    assert chosen["kd"]["trials"] == 3
    assert chosen["student"]["published_is_best"]
    tried = json.loads((tmp_path / "out" / "tuning" / "summary.json").read_text())["pairs"][0]["summary"]
    best = max(row["top1_mean"] for row in tried["rows"] if row["method"].startswith("kd."))
    assert chosen["kd"]["held_out_top1"] == best
    # 10 of the 100 training images were held out, and the test images were never seen
    assert "10 of 100 training images are held out" in " ".join(tried["notes"])
    summary = found["pairs"][0]["summary"]
    names = [row["method"] for row in summary["rows"]]
    assert names == ["student", "kd"] + ([] if chosen["kd"]["published_is_best"] else ["kd-tuned"])
    assert any("read once" in note for note in found["notes"])
    folder = tmp_path / "out/pairs/16-8/kd/seed0/metrics.jsonl"
    assert sum("top1" in json.loads(line) for line in folder.read_text().splitlines()) == 1


def test_a_grid_probes_what_it_trained(bench, tmp_path):
    probes = "transfer=((Data(), Protocol(epochs=2)), (Data(name='photos'), Protocol(epochs=2, arm='drifting'))))"
    text = GRID.format(epochs=1).replace('seeds={"kd": 1})', probes)
    (tmp_path / "probed.py").write_text("from potstill.transfer import Protocol\n" + text)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "digits").mkdir()
    words = ("--out", "out", "--pairs", "16-8", "--methods", "student", "kd", "--seeds", 1)
    status, found = bench(*words, "--probe-root", "disk", grid="probed.py")
    assert status == 1  # neither is there
    assert [cell["method"] for cell in found["failed"]] == ["transfer", "transfer"]
    assert len(found["pairs"][0]["summary"]["rows"]) == 2
    status, found = bench(*words, grid="probed.py")
    assert [("photos" in cell["error"], cell["method"]) for cell in found["failed"]] == [(True, "transfer")]
    (table,) = found["transfer"]
    assert [row["method"] for row in table["rows"]] == ["student", "kd"]
    assert table["teacher"]["model"] == "small_cnn"


def test_cells_that_see_the_same_batches_train_side_by_side(bench, tmp_path):
    """In one process, in two, and each for itself: the same bits; one that fails stops no other."""
    words = ("--pairs", "16-8", "--data.order", "shared", "--methods", "student", "fsp", "wild=kd:1e35", "icd", "kd")
    status, found = bench("--out", "out", *words, "--seeds", 2)
    assert status == 1
    failed = {(cell["method"], cell["seed"]): cell["error"] for cell in found["failed"]}
    assert sorted(failed) == [("fsp", 0), ("fsp", 1), ("wild", 0), ("wild", 1)]
    assert "channels" in failed["fsp", 0]
    assert "NaN or infinite" in failed["wild", 1]
    assert "NaN or infinite" in (tmp_path / "out/pairs/16-8/wild/seed1/error.txt").read_text()
    assert any("saw the same batches" in note for note in found["notes"])
    timing = json.loads((tmp_path / "out/pairs/16-8/kd/seed0/timings.jsonl").read_text().splitlines()[0])
    assert timing["side_by_side"] > 1
    rest = {cell: said for cell, said in learned(tmp_path / "out").items() if "fsp" not in cell and "wild" not in cell}
    assert len(rest) == 6
    alone = ("--pairs", "16-8", "--data.order", "shared", "--methods", "kd", "--seeds", 1)
    assert bench("--out", "alone", *alone)[0] == 0
    assert learned(tmp_path / "alone") == {"pairs/16-8/kd/seed0": rest["pairs/16-8/kd/seed0"]}
    words = (*words[:4], "--methods", "student", "icd", "kd", "--seeds", 2)
    assert bench("--out", "two", *words, "--jobs", 2)[0] == 0
    assert learned(tmp_path / "two") == rest
