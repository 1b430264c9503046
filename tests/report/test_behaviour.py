"""What teacher and students answer, in the report and as files: values, what may be missing, and small runs."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import vl_convert
from test_page import Page

from potstill.console import Talk
from potstill.evaluation import answers, maps
from potstill.evaluation.answers import Answers
from potstill.report import behaviour
from potstill.report.files import write_figures
from potstill.report.page import read_answers, read_summary, write_report

METHODS = ("student", "kd", "icd", "icd+kd", "fitnet")
ALL = ["confidence be trusted", "logits of classes go together", "Mean logits of each class", "t-SNE of"]
CELL = re.compile(r"(class|images of): (.*); (and|logit of): (.*); .*: ([−\d.e]+)")


def speak(run, samples=150, classes=12, methods=METHODS, names=None, width=6):
    """Answers of a teacher and of students of a finished run; returns logits by name, and the labels."""
    rng = np.random.default_rng(samples + classes)
    labels = rng.integers(0, classes, samples)
    centres = rng.normal(size=(classes, width))
    head, spoken = rng.normal(size=(width, classes)), {}
    answers.write_labels(run, labels, names or [f"class {k}" for k in range(classes)])
    for name in ("teacher", *methods):
        embedding = centres[labels] + rng.normal(size=(samples, width)) * 0.5
        spoken[name] = (embedding @ (head + 0.3 * rng.normal(size=head.shape))).astype(np.float32)
        folder = run / ("teacher" if name == "teacher" else f"{name}/seed0")
        folder.mkdir(exist_ok=True)
        answers.write_answers(folder, Answers(spoken[name], embedding.astype(np.float32)))
    return spoken, labels


def mapped(run):
    seen = read_answers(run, read_summary(run))
    maps.draw(seen, Talk(quiet=True))
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """A run with answers and maps, its logits by name, and its labels. Read only."""
    run = shutil.copytree(finished[0], tmp_path_factory.mktemp("whole") / "run")
    spoken, labels = speak(run)
    return mapped(run), spoken, labels


@pytest.fixture(scope="module")
def page(whole):
    return Page(write_report(whole[0]).read_text(encoding="utf-8"))


def report(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def titles(page):
    return [title for title in ALL if title in page.text]


def figure(page, title):
    """The specs of the figures whose description begins so, in their order."""
    labels = {a["id"]: a["aria-label"] for tag, a in page.tags if tag == "div" and "aria-label" in a}
    sources = [a["data-for"] for tag, a in page.tags if tag == "script" and "data-for" in a]
    found = zip(sources, page.specs, strict=True)
    return [(labels[place], spec) for place, spec in found if labels[place].startswith(title)]


def cells(spec):
    """(row, column) -> value of a heat map, as the reader's browser computes it."""
    spec = {**spec, "mark": {**spec["mark"], "aria": True}, "width": 300, "height": 300}
    lines = re.findall(r'aria-label="([^"]*)"', vl_convert.vegalite_to_svg(spec))
    found = [match.groups() for match in map(CELL.search, lines) if match]
    return {(row, column): float(value.replace("−", "-")) for _, row, _, column, value in found}


def lines_of(spec):
    """The lines of the table that a chart of one layer draws, without the names of its columns."""
    data = spec["datasets"][spec["data"]["name"]] if "name" in spec["data"] else spec["data"]["values"]
    return data.splitlines()[1:]


def matrix(values, classes):
    return np.array([[values[f"class {i}", f"class {k}"] for k in range(classes)] for i in range(classes)])


@pytest.mark.parametrize(("place", "what", "rows"), [(4, "first 128 images", 128), (5, "all 150 images", 150)])
def test_correlation_differences(page, whole, place, what, rows):
    _, spoken, _ = whole
    label, spec = figure(page, "How the logits")[place]
    assert f"icd {what}" in label
    one, other = (np.corrcoef(spoken[name][:rows], rowvar=False) for name in ("teacher", "icd"))
    expected = (one - other) * (rows - 1) / rows
    np.testing.assert_allclose(matrix(cells(spec), 12), expected, atol=6e-4)
    assert f"max {expected.max():+.3f}, min {expected.min():+.3f}" in label
    assert label.rpartition("max")[2].strip() in page.text


def test_correlation_colours_are_the_same_for_all_methods(page):
    found = figure(page, "How the logits")
    specs = [spec for _, spec in found]
    domains = [spec["encoding"]["color"]["scale"]["domain"] for spec in specs]
    assert len(domains) == 2 * len(METHODS)
    for version in (domains[::2], domains[1::2]):
        assert all(domain == version[0] for domain in version)
        assert version[0][0] == -version[0][1]
    numbers = [abs(float(text)) for label, _ in found[::2] for text in re.findall(r"[+-]\d\.\d+", label)]
    assert domains[0][1] == pytest.approx(max(numbers), abs=1e-3)


def test_class_means(page, whole):
    _, spoken, labels = whole
    label, spec = figure(page, "Mean logits")[1]
    expected = np.zeros((12, 12))
    for i in range(12):
        for k in range(12):
            one, other = (spoken[name][labels == i, k].mean() for name in ("teacher", "kd"))
            expected[i, k] = abs(one - other) if i != k else 0
    np.testing.assert_allclose(matrix(cells(spec), 12), expected, atol=6e-3)
    assert f"max {expected.max():.2f}, mean {expected.sum() / (12 * 11):.2f}" in label
    assert spec["encoding"]["color"]["scale"]["domain"] == [0, 3]


def test_every_network_has_its_maps(page, whole):
    _, spoken, labels = whole
    for title, count in (("t-SNE of the logits", 12), ("t-SNE of the logits, first 10", 6), ("t-SNE of the emb", 6)):
        found = figure(page, title)
        assert len(found) == count
        assert {label.split(", ")[-1].strip() for label, _ in found} == {"teacher", *METHODS}
    first = figure(page, "t-SNE of the logits, first 10")[3][1]
    rows = [line.split(",") for line in lines_of(first)]
    few = np.flatnonzero(labels < 10)
    assert [int(row[2]) for row in rows] == labels[few].tolist()
    assert [int(row[3]) for row in rows] == spoken["icd"][few].argmax(1).tolist()
    assert set(first["encoding"]["color"]["scale"]["domain"]) == {f"class {k}" for k in range(10)}


def test_calibration(page, whole):
    _, spoken, labels = whole
    ((_, spec),) = figure(page, "Can the confidence")
    (text,) = {text for text in spec["datasets"].values() if isinstance(text, str)}
    table = list(csv.DictReader(io.StringIO(text)))
    assert {row["line"] for row in table} == {"teacher", *METHODS}
    for name, logits in spoken.items():
        mine = [row for row in table if row["line"] == name]
        right = sum(float(row["accuracy"]) * int(float(row["count"])) for row in mine)
        assert right == pytest.approx((logits.argmax(1) == labels).sum(), abs=0.1)


def test_every_chart_can_be_drawn(page):
    for spec in page.specs:
        assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_the_page_stays_small_with_a_hundred_classes(run):
    speak(run, samples=600, classes=100)
    assert titles(report(run)) == ALL[:3]
    assert (run / "report.html").stat().st_size < 3e6


def test_ticks_every_four_of_a_hundred_classes():
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(100)]
    spec = behaviour.correlation_heat_map(rng.normal(size=(100, 100)), names, 3.0).to_dict()
    assert spec["encoding"]["x"]["axis"]["values"] == [k + 0.5 for k in range(0, 100, 4)]
    assert len(cells(spec)) == 10_000


def test_only_the_first_of_very_many_classes_are_drawn(run):
    speak(run, samples=250, classes=230, methods=("kd",))
    found = report(run)
    assert "The first 200 of 230 classes are drawn." in found.text
    spec = figure(found, "Mean logits")[0][1]
    assert len(lines_of(spec)) == 200 * 200


def test_a_run_without_outputs_has_none_of_it(run):
    assert titles(report(run)) == []
    assert "not drawn yet" not in report(run).text


def test_maps_that_are_still_to_be_drawn(run):
    speak(run)
    found = report(run)
    assert titles(found) == ALL[:3]
    assert "potstill report demo-1" in found.text
    assert titles(report(mapped(run))) == ALL
    assert "not drawn yet" not in report(run).text


def test_maps_are_drawn_once(run):
    speak(run, methods=("kd",))
    mapped(run)
    kept = (run / "kd/seed0" / maps.MAPS).stat().st_mtime_ns
    (run / "teacher" / maps.MAPS).unlink()
    seen = read_answers(run, read_summary(run))
    assert maps.missing(seen) == ["teacher"]
    mapped(run)
    assert (run / "kd/seed0" / maps.MAPS).stat().st_mtime_ns == kept


def test_without_a_teacher_only_calibration_and_maps(run):
    speak(run)
    shutil.rmtree(run / "teacher")
    assert titles(report(run)) == ["confidence be trusted"]


def test_a_student_that_diverged_is_left_out(run):
    spoken, _ = speak(run)
    broken = spoken["kd"].copy()
    broken[3, 2] = np.nan
    answers.write_answers(run / "kd/seed0", Answers(broken, np.full((150, 4), np.inf)))
    found = report(mapped(run))
    assert len(figure(found, "How the logits")) == 2 * (len(METHODS) - 1)
    assert not [label for label, _ in figure(found, "t-SNE") if label.split(", ")[-1].strip() == "kd"]


def test_a_later_seed_speaks_where_the_first_has_no_outputs(run):
    spoken, _ = speak(run)
    shutil.move(run / "kd/seed0/outputs.safetensors", run / "kd/seed3/outputs.safetensors")
    seen = read_answers(run, read_summary(run))
    assert seen.places["kd"] == run / "kd/seed3"
    np.testing.assert_array_equal(seen.load("kd").logits, spoken["kd"])


@pytest.mark.parametrize(("samples", "classes"), [(1, 3), (3, 1), (4, 9), (6, 30), (2, 2), (40, 1)])
def test_next_to_nothing(run, samples, classes):
    speak(run, samples, classes, methods=("student", "kd"))
    found = report(mapped(run))
    assert "confidence be trusted" in found.text
    assert ("logits of classes" in found.text) == (samples > 1 and classes > 1)
    assert ("t-SNE of" in found.text) == (samples > 4)
    for spec in found.specs:
        vl_convert.vegalite_to_svg({**spec, "width": 200, "height": 200})


def test_classes_without_images_leave_their_rows_blank(run):
    _, labels = speak(run, samples=5, classes=9, methods=("kd",))
    found = cells(figure(report(run), "Mean logits")[0][1])
    assert {row for row, _ in found} == {f"class {k}" for k in labels.tolist()}


def test_equal_networks(run):
    spoken, _ = speak(run, methods=("kd",))
    answers.write_answers(run / "kd/seed0", Answers(spoken["teacher"]))
    label, spec = figure(report(run), "How the logits")[0]
    assert "max +0.000, min +0.000" in label
    assert set(cells(spec).values()) == {0.0}


def test_hostile_class_names_stay_text(run):
    evil = "</script><img src=x onerror=alert(1)>"
    speak(run, classes=3, names=[evil, "'; alert(1); '", "${x}"])
    found = report(mapped(run))
    assert not [a for tag, a in found.tags if tag == "img" and a.get("src") == "x"]
    assert evil in figure(found, "Mean logits")[0][1]["params"][0]["value"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: (run / "labels.safetensors").write_bytes(b"no"), r"labels\.safetensors: not a safetensors file"),
        (lambda run: (run / "kd/seed0/outputs.safetensors").write_bytes(b""), "kd.*not a safetensors file"),
        (
            lambda run: answers.write_answers(run / "kd/seed0", Answers(np.ones((150, 3), np.float32))),
            r"kd.*shape \[150, 3\], expected \[150, 12\]",
        ),
        (
            lambda run: answers.write_answers(
                run / "teacher", Answers(np.ones((150, 12), np.float32), np.ones((4, 2), np.float32))
            ),
            r"teacher.*embedding of shape \[4, 2\], expected \[150, D\]",
        ),
        (lambda run: answers.write_labels(run, np.array([0, 12]), ["a"] * 12), "outside the 12 classes"),
        (
            lambda run: answers.write_arrays(
                run / "kd/seed0" / maps.MAPS, {"logits": np.ones((2, 2)), "logits.index": np.array([3, 999])}
            ),
            r"kd.*logits is no map of 150 samples",
        ),
    ],
)
def test_broken_files_leave_the_old_report(run, change, says):
    speak(run)
    (run / "report.html").write_text("old")
    change(run)
    with pytest.raises(ValueError, match=says):
        write_report(run)
    assert (run / "report.html").read_text() == "old"


def test_large_outputs_are_stored_in_half_the_space(run, monkeypatch):
    monkeypatch.setattr(answers, "LARGE", 1000)
    big = np.linspace(-30, 30, 2000, dtype=np.float32).reshape(200, 10)
    wild = np.full((200, 10), 1e6, np.float32)
    answers.write_labels(run, np.zeros(200, np.int64), ["a"] * 10)
    answers.write_answers(run / "kd/seed0", Answers(big, wild))
    stored, _ = answers.read_arrays(run / "kd/seed0/outputs.safetensors")
    assert (stored["logits"].dtype, stored["embedding"].dtype) == (np.float16, np.float32)
    found = read_answers(run, read_summary(run)).load("kd")
    assert found.logits.dtype == np.float32
    np.testing.assert_allclose(found.logits, big, atol=0.02)
    np.testing.assert_array_equal(found.embedding, wild)


def test_maps_of_many_networks_have_fewer_points(run, monkeypatch):
    speak(run, samples=4000, classes=60, methods=("kd",))
    seen = read_answers(run, read_summary(run))
    before = maps.cost(seen)
    assert before == pytest.approx(maps.SECONDS * 2 * (1800 + 1800 + 300))
    monkeypatch.setattr(maps, "TOGETHER", 3000)
    assert maps.cost(seen) == pytest.approx(maps.SECONDS * 2 * (500 + 500 + 300))


def test_figures_as_files(run, tmp_path):
    speak(run, samples=60, methods=("kd",))
    paths = write_figures(mapped(run), tmp_path / "new" / "figures")
    names = {path.name for path in paths}
    for stem in (
        *("accuracy", "curves", "agreement", "agreement-curves", "terms-icd+kd", "reliability"),
        *("correlation-kd", "class-means-kd", "tsne-logits-teacher", "tsne-first-kd", "tsne-embedding-kd"),
    ):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    assert names == {path.name for path in (tmp_path / "new" / "figures").iterdir()}
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"<svg") for path in paths)
    picture = (tmp_path / "new/figures/correlation-kd.svg").read_text()
    assert "How the logits of classes go together" in picture
    assert re.search(r"max \+0\.\d{3}, min -0\.\d{3}", picture)


def test_no_folder_for_figures(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give --figures a folder"):
        write_figures(run, tmp_path / "file")
    assert json.loads((run / "summary.json").read_text())
