"""Side by side from the command line: the same numbers as alone, and a table that says what the seeds share."""

import json
import shutil

import pytest

from potstill import runs
from potstill.data.spec import Data
from potstill.recipe import Recipe
from potstill.report.tables import markdown_table

WORDS = ("small.py", "--precision", "float32", "--fit.epochs", "2", "--data.train-rows", "100", "--json")
SHARED = ("--data.order", "shared")


def learned(out):
    """What every cell logged, and its weights, by folder."""
    found = {}
    for path in sorted(out.glob("*/seed*/metrics.jsonl")):
        weights = (path.parent / "student.safetensors").read_bytes()
        found[str(path.parent.relative_to(out))] = path.read_text(), weights
    return found


@pytest.fixture
def distilled(shell, tmp_path):
    def run(out, *words, status=0):
        code, _, error = shell("distill", *WORDS, "--out", out, *words)
        assert code == status, error
        return learned(tmp_path / out) if status == 0 else error

    return run


def test_the_same_students_as_alone(distilled, tmp_path):
    words = (*SHARED, "--methods", "student", "kd", "crd(memory=fifo)", "ft", "icd~shuffled")
    together = distilled("together", *words, "--seeds", 2)
    assert len(together) == 10
    teacher = ("--teacher.checkpoint", tmp_path / "together" / "teacher" / "student.safetensors")
    for method in ("student", "crd(memory=fifo)", "ft", "icd~shuffled"):
        one = distilled(f"alone-{method}", *SHARED, *teacher, "--methods", method, "--seed", 1)
        assert one == {f"{method}/seed1": together[f"{method}/seed1"]}
    rows = json.loads((tmp_path / "together/summary.json").read_text())["rows"]
    assert [(row["method"], row["n"]) for row in rows][:2] == [("student", 2), ("kd", 2)]
    assert len({text for text, _ in together.values()}) == 10


def test_the_table_says_what_the_seeds_share(distilled, tmp_path):
    shared = distilled("shared", *SHARED, "--seeds", 2, "--methods", "kd")
    own = distilled("own", "--seeds", 2, "--methods", "kd")
    said = "All students saw the same batches"
    for out, expected in (("shared", True), ("own", False)):
        summary = json.loads((tmp_path / out / "summary.json").read_text())
        assert (said in markdown_table(summary)) == expected
        assert (said in (tmp_path / out / "report.html").read_text()) == expected
    # The teacher's own order is its own in both: one teacher serves both.
    weights = [(tmp_path / out / "teacher" / "student.safetensors").read_bytes() for out in ("shared", "own")]
    assert weights[0] == weights[1]
    assert shared["kd/seed0"] != own["kd/seed0"]
    assert not (tmp_path / "shared" / "students.json").exists()  # nothing is left to measuring


def test_stacking_is_measured_where_the_precision_is(shell, tmp_path):
    """Once: the rest of the run goes on in the same way, as does a resumed one that names the precision."""
    words = [word for word in WORDS if word not in ("--precision", "float32")]
    words = ("distill", *words, *SHARED, "--methods", "kd", "--seeds", 2, "--out", "out")
    assert shell(*words)[0] == 0
    record = tmp_path / "out" / "students.json"
    found, named = json.loads(record.read_text()), json.loads((tmp_path / "out" / "precision.json").read_text())
    # Measured, or (bf16 on some processors) impossible: torch has no stacked form of every kernel.
    assert ("a step of 2 students: in turn " in found["why"]) != ("in turn; stacking fails: " in found["why"])
    before = learned(tmp_path / "out")
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "out" / "kd" / f"seed{seed}")
    record.write_text(json.dumps({"stacked": found["stacked"], "why": "as recorded"}))
    code, _, error = shell(*words, "--resume", "--precision", named["choice"])
    assert code == 0
    assert "students: as recorded" in error
    assert learned(tmp_path / "out") == before


def test_a_student_that_fails_leaves_the_others(distilled, tmp_path):
    words = (*SHARED, "--methods", "student", "wild=ce:1+kd:1e35", "kd")
    error = distilled("out", *words, status=1)
    assert "wild seed 0: term" in error
    assert "NaN or infinite" in error
    assert {path.parent.parent.name for path in (tmp_path / "out").glob("*/seed0/result.json")} == {"student", "kd"}


def test_a_run_from_before_the_leaf_existed_goes_on(tmp_path):
    """What a recorded recipe does not know had its default when it ran."""
    values = runs.describe(Recipe(), 0, None)
    del values["recipe"]["data"]["order"]
    with runs.claim(tmp_path, values, resume=False):
        pass
    assert runs.check(tmp_path, runs.describe(Recipe(), 0, None), resume=True)
    with pytest.raises(ValueError, match=r"data.order \('own', now 'shared'\)"):
        runs.check(tmp_path, runs.describe(Recipe(data=Data(order="shared")), 0, None), resume=True)
