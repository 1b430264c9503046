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
from potstill.report.sections import sections

METHODS = ("student", "kd")
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
def run(bare, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(bare, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(bare, tmp_path_factory):
    """A run with answers and maps, its logits by name, and its labels. Read only."""
    run = shutil.copytree(bare, tmp_path_factory.mktemp("whole") / "run")
    spoken, labels = speak(run)
    return mapped(run), spoken, labels


@pytest.fixture(scope="module")
def drawn(whole):
    return draw(whole[0])


@pytest.fixture(scope="module")
def page(whole):
    return Page(write_report(whole[0]).read_text(encoding="utf-8"))


def report(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def draw(run):
    """Every figure: the title of its section, whose it is, what it shows, its caption, and its spec."""
    summary = read_summary(run)
    return [
        (section.title, figure.name, figure.what, figure.caption, figure.chart.to_dict())
        for section in sections(read_answers(run, summary), summary)
        for figure in section.figures
    ]


def titles(found):
    return [title for title in ALL if any(title in line for line, *_ in found)]


def figure(found, title, name="kd", what=""):
    """Caption and spec of one figure."""
    ((*_, caption, spec),) = [one for one in found if title in one[0] and one[1:3] == (name, what)]
    return caption, spec


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


@pytest.mark.parametrize(("what", "rows"), [("first 128 images", 128), ("all 150 images", 150)])
def test_correlation_differences(drawn, whole, what, rows):
    _, spoken, _ = whole
    caption, spec = figure(drawn, "logits of classes", what=what)
    one, other = (np.corrcoef(spoken[name][:rows], rowvar=False) for name in ("teacher", "kd"))
    expected = (one - other) * (rows - 1) / rows
    np.testing.assert_allclose(matrix(cells(spec), 12), expected, atol=6e-4)
    assert caption == f"max {expected.max():+.3f}, min {expected.min():+.3f}"


def test_correlation_colours_end_at_the_largest_of_all_methods(drawn):
    for what in ("first 128 images", "all 150 images"):
        found = [figure(drawn, "logits of classes", name, what) for name in METHODS]
        domains = [spec["encoding"]["color"]["scale"]["domain"] for _, spec in found]
        numbers = [abs(float(text)) for caption, _ in found for text in re.findall(r"[+-]\d\.\d+", caption)]
        assert domains[0] == domains[1] == pytest.approx([-max(numbers), max(numbers)], abs=1e-3)


def test_class_means(drawn, whole):
    _, spoken, labels = whole
    caption, spec = figure(drawn, "Mean logits")
    expected = np.zeros((12, 12))
    for i in range(12):
        for k in range(12):
            one, other = (spoken[name][labels == i, k].mean() for name in ("teacher", "kd"))
            expected[i, k] = abs(one - other) if i != k else 0
    np.testing.assert_allclose(matrix(cells(spec), 12), expected, atol=6e-3)
    assert caption == f"max {expected.max():.2f}, mean {expected.sum() / (12 * 11):.2f}"
    assert spec["encoding"]["color"]["scale"]["domain"] == [0, 3]


def test_every_network_has_its_maps(drawn, whole):
    _, spoken, labels = whole
    for title in ("t-SNE of the logits", "t-SNE of the logits, first 10 classes", "t-SNE of the embeddings"):
        assert [name for found, name, *_ in drawn if found == title] == ["teacher", *METHODS]
    rows = [line.split(",") for line in lines_of(figure(drawn, "first 10 classes")[1])]
    few = np.flatnonzero(labels < 10)
    assert [int(row[2]) for row in rows] == labels[few].tolist()
    assert [int(row[3]) for row in rows] == spoken["kd"][few].argmax(1).tolist()


def test_calibration(drawn, whole):
    _, spoken, labels = whole
    _, spec = figure(drawn, "confidence be trusted", name="")
    (text,) = {text for text in spec["datasets"].values() if isinstance(text, str)}
    table = list(csv.DictReader(io.StringIO(text)))
    assert {row["line"] for row in table} == {"teacher", *METHODS}
    for name, logits in spoken.items():
        mine = [row for row in table if row["line"] == name]
        right = sum(float(row["accuracy"]) * float(row["count"]) for row in mine)
        assert right == pytest.approx((logits.argmax(1) == labels).sum(), abs=0.1)


def test_all_of_it_is_on_the_page(page, drawn):
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "div" and "aria-label" in attributes]
    for title, name, what, caption, _ in drawn:
        assert title in page.text
        assert any(all(part in label for part in (title, name, what, caption)) for label in labels)
        assert caption in page.text
    places = {attributes.get("id") for _, attributes in page.tags}
    wanted = [a["data-for"] for tag, a in page.tags if tag == "script" and "data-for" in a]
    assert set(wanted) <= places
    assert len(set(wanted)) == len(wanted) == len(page.specs)
    for spec in page.specs:
        assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_many_networks_unfold(run, monkeypatch):
    monkeypatch.setattr("potstill.report.sections.OPEN", 1)
    speak(run, samples=20, classes=3)
    found = report(run)
    assert found.text.count("More networks") == 2
    monkeypatch.setattr("potstill.report.sections.OPEN", 2)
    assert "More networks" not in report(run).text


def test_the_page_stays_small_with_a_hundred_classes(run):
    speak(run, samples=600, classes=100)
    write_report(run)
    assert (run / "report.html").stat().st_size < 1.6e6


def test_ticks_every_four_of_a_hundred_classes():
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(100)]
    spec = behaviour.correlation_heat_map(rng.normal(size=(100, 100)), names, 3.0).to_dict()
    assert spec["encoding"]["x"]["axis"]["values"] == [k + 0.5 for k in range(0, 100, 4)]
    assert len(cells(spec)) == 10_000


def test_only_the_first_of_very_many_classes_are_drawn(run):
    speak(run, samples=250, classes=230, methods=("kd",))
    _, spec = figure(draw(run), "Mean logits")
    assert len(lines_of(spec)) == 200 * 200
    summary = read_summary(run)
    hints = [section.hint for section in sections(read_answers(run, summary), summary)]
    assert sum("The first 200 of 230 classes are drawn." in hint for hint in hints) == 2


def test_a_run_without_outputs_has_none_of_it(run):
    found = report(run)
    assert not [title for title in ALL if title in found.text]
    assert "Accuracy of every seed" in found.text
    assert "not drawn yet" not in found.text


def test_maps_that_are_still_to_be_drawn(run):
    speak(run, samples=20, classes=3, methods=("kd",))
    found = report(run)
    assert [title for title in ALL if title in found.text] == ALL[:3]
    assert "potstill report demo-1" in found.text
    found = report(mapped(run))
    assert [title for title in ALL if title in found.text] == ALL
    assert "not drawn yet" not in found.text


def test_maps_are_drawn_once(run):
    speak(run, samples=20, classes=3, methods=("kd",))
    mapped(run)
    kept = (run / "kd/seed0" / maps.MAPS).stat().st_mtime_ns
    (run / "teacher" / maps.MAPS).unlink()
    assert maps.missing(read_answers(run, read_summary(run))) == ["teacher"]
    mapped(run)
    assert (run / "kd/seed0" / maps.MAPS).stat().st_mtime_ns == kept


def test_without_a_teacher_there_is_nothing_to_subtract(run):
    speak(run)
    shutil.rmtree(run / "teacher")
    assert titles(draw(run)) == ALL[:1]


def test_a_student_that_diverged_is_left_out(run):
    spoken, _ = speak(run, samples=20, classes=3)
    broken = spoken["kd"].copy()
    broken[3, 2] = np.nan
    answers.write_answers(run / "kd/seed0", Answers(broken, np.full((20, 4), np.inf, np.float32)))
    found = draw(mapped(run))
    assert {name for _, name, *_ in found} == {"", "teacher", "student"}
    assert titles(found) == ALL


def test_a_later_seed_speaks_where_the_first_has_no_outputs(run):
    spoken, _ = speak(run)
    shutil.move(run / "kd/seed0/outputs.safetensors", run / "kd/seed1/outputs.safetensors")
    seen = read_answers(run, read_summary(run))
    assert seen.places["kd"] == run / "kd/seed1"
    np.testing.assert_array_equal(seen.load("kd").logits, spoken["kd"])


@pytest.mark.parametrize(("samples", "classes"), [(1, 3), (3, 1), (4, 9), (6, 30), (40, 1)])
def test_next_to_nothing(run, samples, classes):
    speak(run, samples, classes, methods=("kd",))
    found = draw(mapped(run))
    several, points = samples > 1 and classes > 1, samples > 4
    assert titles(found) == [
        ALL[0],
        *([ALL[1]] if several else []),
        *([ALL[2]] if classes > 1 else []),
        *[ALL[3]] * points,
    ]
    for *_, spec in found:
        assert "</svg>" in vl_convert.vegalite_to_svg({**spec, "width": 200, "height": 200})


def test_classes_without_images_leave_their_rows_blank(run):
    _, labels = speak(run, samples=5, classes=9, methods=("kd",))
    found = cells(figure(draw(run), "Mean logits")[1])
    assert {row for row, _ in found} == {f"class {k}" for k in labels.tolist()}


def test_equal_networks(run):
    spoken, _ = speak(run, methods=("kd",))
    answers.write_answers(run / "kd/seed0", Answers(spoken["teacher"]))
    caption, spec = figure(draw(run), "logits of classes", what="all 150 images")
    assert caption == "max +0.000, min +0.000"
    assert set(cells(spec).values()) == {0.0}


def test_hostile_class_names_stay_text(run):
    evil = "</script><img src=x onerror=alert(1)>"
    speak(run, samples=20, classes=3, names=[evil, "'; alert(1); '", "${x}"], methods=("kd",))
    found = report(run)
    assert not [a for tag, a in found.tags if tag == "img" and a.get("src") == "x"]
    assert any(evil in json.dumps(spec) for spec in found.specs)


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
def test_broken_files(run, change, says):
    speak(run)
    change(run)
    with pytest.raises(ValueError, match=says):
        draw(run)


def test_a_broken_file_leaves_the_old_report(run):
    speak(run)
    (run / "report.html").write_text("old")
    (run / "kd/seed0/outputs.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a safetensors file"):
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
        *("accuracy", "curves", "agreement", "agreement-curves", "terms-kd", "reliability"),
        *("correlation-kd", "class-means-kd", "tsne-logits-teacher", "tsne-first-kd", "tsne-embedding-kd"),
    ):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    assert names == {path.name for path in (tmp_path / "new" / "figures").iterdir()}
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"<svg") for path in paths)
    picture = (tmp_path / "new/figures/correlation-kd.svg").read_text()
    assert "How the logits of classes go together" in picture
    assert figure(draw(run), "logits of classes")[0] in picture


def test_no_folder_for_figures(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give --figures a folder"):
        write_figures(run, tmp_path / "file")
    assert json.loads((run / "summary.json").read_text())
