"""Runs with a call budget from the command line: the same images and answers for all methods, asked once."""

import json

import pytest

from potstill import budget
from potstill.engine import Engine
from potstill.tasks.comparisons import Comparisons

WORDS = ("small.py", "--precision", "float32", "--json", "--data.train-rows", 120, "--data.valid-rows", 200)
WORDS += ("--teacher.budget", 50, "--data.watched", 0.2, "--fit.schedule", "plateau", "--fit.patience", 2)
WORDS += ("--fit.no-drop-last", "--fit.epochs", 4, "--fit.checkpoint-steps", 1, "--teacher-fit.schedule", "constant")
METHODS = ("student", "kd", "ckd(group=3,inter=cc)", "mixup_kd", "rkd=black_box(of=rkd)", "ckd~shuffled")


@pytest.fixture
def asked(monkeypatch):
    """How many samples teachers with a budget were asked about, batch by batch."""
    found, ask = [], budget.Budgeted._ask

    def counted(self, *args, **kw):
        before = self.calls
        ask(self, *args, **kw)
        found.append((self, self.calls - before))

    monkeypatch.setattr(budget.Budgeted, "_ask", counted)

    def calls():
        """Of the one teacher that was asked most: throw-away ones, built to look for mistakes, see a probe."""
        return max((count for _, count in found), default=0)

    return calls


def learned(out):
    paths = sorted(out.glob("*/seed*/metrics.jsonl"))
    return {path.parts[-3]: (path.read_text(), (path.parent / "student.safetensors").read_bytes()) for path in paths}


@pytest.mark.parametrize("order", ["own", "shared"])
def test_every_method_learns_from_the_same_answers(shell, tmp_path, asked, order, monkeypatch):
    steps, differentiate = {}, Engine.differentiate

    def watched(self, batch):
        found = [view.index for name, view in batch.views.items() if name in ("main", "first", "second", "partner")]
        steps.setdefault(str(self.folder), []).append({i for index in found for i in index.tolist()})
        return differentiate(self, batch)

    monkeypatch.setattr(Engine, "differentiate", watched)
    status, _, err = shell("distill", *WORDS, "--out", "out", "--methods", *METHODS, "--data.order", order)
    assert status == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["teacher"]["calls"] == asked() == 50
    assert "students see 50 training images, 10 of which are set aside and watched" in summary["notes"]
    seen = {folder: set().union(*sets) for folder, sets in steps.items() if not folder.endswith("teacher")}
    assert len(seen) == len(METHODS)
    for folder, sets in steps.items():
        if folder in seen:
            assert seen[folder] <= set(range(40))  # what is watched is not learned from
            assert len(sets) % 2 == 0  # 40 images in batches of 20, whatever the method
    rows = [json.loads(line) for line in (tmp_path / "out/kd/seed0/metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["watched_top1"] <= 100 for row in rows)
    teacher = (tmp_path / "out/teacher/metrics.jsonl").read_text().splitlines()
    assert len(teacher) == 2
    assert json.loads(teacher[0])["step"] == 6  # all 120 images
    assert "watched_top1" not in json.loads(teacher[0])


def test_a_killed_run_goes_on_with_the_same_bits_and_no_further_calls(shell, tmp_path, asked, monkeypatch):
    words = (*WORDS, "--methods", "kd", "ckd(group=3)")
    assert shell("distill", *words, "--out", "whole")[0] == 0
    move = Engine.move

    def killed(self):
        if isinstance(self.task, Comparisons) and self.step == 5 and self.folder is not None:
            raise RuntimeError("killed")
        move(self)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "move", killed)
        with pytest.raises(RuntimeError, match="killed"):
            shell("distill", *words, "--out", "out")
    before = asked()
    assert before == 50
    asked_again = []
    monkeypatch.setattr(budget.Budgeted, "fill", lambda *args: asked_again.append(args))
    status, _, err = shell("distill", *words, "--out", "out", "--resume")
    assert status == 0, err
    assert not asked_again
    assert learned(tmp_path / "out") == learned(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--teacher.budget", 500), "cannot see 500 training images"),
        (("--data.subset", 20), "teacher.budget=50 is larger than the data"),
        (("--data.subset", 60), "teacher.budget=50 is too small for the data"),
        (("--methods", "simkd"), "use the live network"),
    ],
)
def test_mistakes_show_before_the_first_step(shell, nothing_left, words, said):
    status, _, err = shell("distill", *WORDS, "--out", "out", "--methods", "kd", *words)
    assert status == 1
    assert said in err
