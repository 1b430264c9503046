"""`potstill evaluate`, on a run of HKD with its auxiliary teacher."""

import json
import shutil

import pytest

from potstill.cli import main

PIPELINE = """\
from potstill import Data, Fit, Network, Recipe
from potstill.recipe import Assistant

ADAM = Fit(epochs=8, batch_size=25, optimizer="adamw", lr=0.02, weight_decay=0.0, evaluate_every=8)
MIDDLE = Network("small_cnn", width=12)

def recipe(smoke=False):
    return Recipe(
        data=Data(augment="none", valid_rows=600),
        teacher=Network("small_cnn", width=24),
        student=Network("small_cnn", width=4),
        assistants=(
            Assistant("by_labels", MIDDLE, "student"),
            Assistant("auxiliary", MIDDLE, "ce:0+info_flow", start="by_labels"),
        ),
        methods=("student", "hkd", "hkd~shuffled", "hkd+ce:1"),
        fit=ADAM,
    )
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Teacher, auxiliary and students on digits."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "flow.py").write_text(PIPELINE)
    words = [str(folder / "flow.py"), "--out", str(folder / "run"), "--precision", "float32", "--quiet"]
    assert main(["distill", *words]) == 0
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def test_a_student_without_a_classifier_has_no_top_1(made):
    summary = json.loads((made / "summary.json").read_text())
    rows = {row["method"]: row for row in summary["rows"]}
    assert [rows[name]["classifies"] for name in rows] == [True, False, False, True]
    assert (rows["hkd"]["top1_mean"], rows["hkd"]["top1"], rows["hkd"]["difference"]) == (None, [None], None)
    assert rows["hkd+ce:1"]["top1_mean"] > 60
    assert rows["hkd+ce:1"]["difference"] is not None
    assert "no top-1" in (made / "report.html").read_text()
    by_labels, auxiliary = summary["teacher"]["assistants"]
    assert by_labels["top1"] > 60
    assert auxiliary["top1"] is None
    assert json.loads((made / "hkd" / "seed0" / "student.json").read_text())["top1"] is None


def test_an_assistant_starts_where_another_ended(made):
    """Nothing trains the classifier of the second, so it still is the first one's."""
    from safetensors.torch import load_file

    one, two = (load_file(made / name / "student.safetensors") for name in ("by_labels", "auxiliary"))
    assert one["fc.weight"].equal(two["fc.weight"])
    assert not one["stage1.0.conv.weight"].equal(two["stage1.0.conv.weight"])


def test_hkd_learns_from_its_auxiliary(shell, run):
    """Retrieval by its features: above the control, whose teacher speaks of another image."""
    status, out, err = shell("evaluate", run, "--suite", "retrieval", "--top", "10", "--json", "--quiet")
    assert (status, err) == (0, "")
    table = json.loads(out)
    assert json.loads((run / "retrieval.json").read_text()) == table
    rows = {row["method"]: row for row in table["rows"]}
    assert list(rows) == ["student", "hkd", "hkd~shuffled", "hkd+ce:1"]
    assert [one["name"] for one in table["assistants"]] == ["by_labels", "auxiliary"]
    reached = {name: row["mean"] for name, row in rows.items()}
    assert reached["hkd"]["map_c"] > reached["hkd~shuffled"]["map_c"] + 10
    assert reached["hkd"]["centroid"] > 60  # chance is 10
    assert table["teacher"]["map_c"] > reached["hkd"]["map_c"]
    first = rows["hkd"]
    assert (first["n"], first["seeds"], first["std"]["map_e"]) == (1, [0], None)
    assert first["values"][0]["map_e"] == first["mean"]["map_e"]
    assert set(table["columns"]) == set(first["mean"])


def test_the_table(shell, run):
    words = ("--suite", "retrieval", "--methods", "hkd", "--layer", "stage1", "--data.valid-rows", "100")
    status, out, err = shell("evaluate", run, *words)
    assert status == 0, err
    assert "digits: retrieval of training images" in out
    assert "mAP (e)" in out
    assert "Features: stage1." in out
    lines = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert "auxiliary" in lines
    assert "hkd~shuffled" not in lines


def test_a_grid_has_a_table_for_each_pair(shell, run, tmp_path):
    for pair in ("a-b", "c-d"):
        shutil.copytree(run, tmp_path / "grid" / "pairs" / pair)
    words = ("--suite", "retrieval", "--methods", "hkd", "--json", "--quiet")
    status, out, _ = shell("evaluate", tmp_path / "grid", *words)
    assert status == 0
    assert [table["pair"] for table in json.loads(out)["pairs"]] == ["a-b", "c-d"]
    assert (tmp_path / "grid" / "pairs" / "c-d" / "retrieval.json").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run",), "which suite? potstill evaluate RUN --suite retrieval"),
        (("run", "--suite", "retrievel"), "did you mean 'retrieval'?"),
        (("run", "--suite", "retrieval", "--layers", "x"), "did you mean '--layer'"),
        (("run", "--suite", "retrieval", "--layer", "stage9"), "has no 'stage9'"),
        (("run", "--suite", "retrieval", "--top", "0"), "top must be at least 1"),
        (("run", "--suite", "retrieval", "--methods", "hdk"), "did you mean 'hkd'"),
        (("--suite", "retrieval"), "needs a run folder"),
        (("run/hkd/seed0", "--suite", "retrieval"), "of a run (not of one student)"),
        (("ron", "--suite", "retrieval"), "there is no such folder"),
    ],
)
def test_what_is_wrong_is_said(shell, run, words, says):
    status, out, err = shell("evaluate", *words)
    assert (status, out) == (1, "")
    assert says in err
    assert not (run / "retrieval.json").exists()
