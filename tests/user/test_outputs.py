"""What a comparison keeps of its networks' answers, and the figures that `potstill report` draws of them."""

import json
import shutil

import numpy as np
import pytest

from potstill import outputs
from potstill.evaluation import answers, maps
from potstill.report.page import read_answers, read_summary

WORDS = ("distill", "small.py", "--precision", "float32", "--quiet", "--out", "run")


def seen_of(run):
    return read_answers(run, read_summary(run))


def test_the_first_seed_of_every_method_is_kept(demo):
    seen, summary = seen_of(demo), read_summary(demo)
    assert set(seen.places) == {"teacher", *(row["method"] for row in summary["rows"])}
    assert not list(demo.glob("*/seed1/outputs.safetensors"))
    assert seen.classes == tuple("0123456789")
    teacher = seen.load("teacher")
    assert teacher.logits.argmax(1).shape == seen.labels.shape
    assert 100 * (teacher.logits.argmax(1) == seen.labels).mean() == pytest.approx(summary["teacher"]["top1"])
    for row in summary["rows"]:
        found = seen.load(row["method"])
        assert 100 * (found.logits.argmax(1) == seen.labels).mean() == pytest.approx(row["top1"][0])
        same = found.logits.argmax(1) == teacher.logits.argmax(1)
        assert 100 * same.mean() == pytest.approx(row["agreement"][0])


def test_logits_are_linear_in_the_embedding(demo):
    """So the tap is the classifier's input, row by row the same images."""
    found = seen_of(demo).load("kd")
    inputs = np.hstack([found.embedding, np.ones((len(found.embedding), 1))])
    solved = np.linalg.lstsq(inputs, found.logits, rcond=None)[0]
    np.testing.assert_allclose(inputs @ solved, found.logits, atol=1e-3)


@pytest.fixture
def few_points(monkeypatch):
    monkeypatch.setattr(maps, "PER_CLASS", 2)
    monkeypatch.setattr(maps, "FEWEST", 20)


@pytest.mark.usefixtures("few_points")
def test_a_short_run_leaves_the_maps_for_later(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "SHARE", 0)
    status, _, said = shell(*WORDS)
    assert status == 0, said
    run = tmp_path / "run"
    page = (run / "report.html").read_text()
    assert "Can the confidence be trusted?" in page
    assert "potstill report run" in page
    status, out, said = shell("report", run, "--figures", tmp_path / "figures")
    assert status == 0, said
    assert out.splitlines()[0] == str(run / "report.html")
    assert "t-SNE of the embeddings" in (run / "report.html").read_text()
    assert maps.missing(seen_of(run)) == []
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"tsne-logits-icd.png", "correlation-icd-first128.svg", "curves.png"} <= files
    assert out.splitlines()[1] == f"{tmp_path / 'figures'}: {len(files)} files"


@pytest.mark.usefixtures("few_points")
def test_a_long_run_has_its_maps_at_once(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "SHARE", 1e6)
    assert shell(*WORDS)[0] == 0
    assert "t-SNE of the logits" in (tmp_path / "run/report.html").read_text()


def test_cells_of_an_earlier_day_are_asked_on_resume(shell, tmp_path):
    assert shell(*WORDS)[0] == 0
    run = tmp_path / "run"
    before = seen_of(run).load("icd")
    kept = (run / "teacher/outputs.safetensors").stat().st_mtime_ns
    (run / "icd/seed0/outputs.safetensors").unlink()
    (run / "student/seed0/outputs.safetensors").unlink()
    (run / "student/seed0/student.safetensors").unlink()
    status, _, said = shell(*WORDS, "--resume")
    assert status == 0, said
    after = seen_of(run)
    assert set(after.places) == {"teacher", "icd"}
    np.testing.assert_array_equal(after.load("icd").logits, before.logits)
    assert (run / "teacher/outputs.safetensors").stat().st_mtime_ns == kept


def test_a_student_built_around_the_network_is_asked_as_a_whole(shell, tmp_path):
    assert shell(*WORDS, "--methods", "simkd")[0] == 0
    run = tmp_path / "run"
    seen, (row,) = seen_of(run), read_summary(run)["rows"]
    assert 100 * (seen.load("simkd").logits.argmax(1) == seen.labels).mean() == pytest.approx(row["top1"][0])


def test_a_teacher_that_a_cache_speaks_for_is_asked_itself(shell, good, tmp_path):
    weights = good / "teacher" / "student.safetensors"
    words = ("small.py", "--teacher.checkpoint", weights)
    assert shell("cache", *words, "--out", "said", "--quiet")[0] == 0
    status, _, said = shell(*WORDS[:1], *words, *WORDS[2:], "--methods", "icd", "--teacher.cache", "said")
    assert status == 0, said
    found = seen_of(tmp_path / "run").load("teacher")
    np.testing.assert_allclose(found.logits, seen_of(good).load("teacher").logits, atol=1e-4)


def test_a_run_of_an_earlier_version_is_reported_as_before(demo, tmp_path, shell):
    run = shutil.copytree(demo, tmp_path / "old")
    for path in [run / answers.LABELS, *run.rglob(answers.OUTPUTS)]:
        path.unlink()
    status, out, said = shell("report", run)
    assert (status, out, said) == (0, f"{run / 'report.html'}\n", "")
    assert "Can the confidence be trusted?" not in (run / "report.html").read_text()
    assert json.loads((run / "summary.json").read_text())["rows"]
