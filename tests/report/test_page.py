"""The report: one file, no network, everything escaped, and no section without its data."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import vl_convert

from potstill.report.page import write_report


class Page(HTMLParser):
    """Tags with their attributes, visible text, and the charts' specs."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.specs, self.scripts = [], "", [], []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.text += data
        elif self.inside[1].get("type") == "application/json":
            self.specs.append(json.loads(data))
        elif self.inside[0] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def page(finished):
    return Page(write_report(finished[0]).read_text(encoding="utf-8"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run that a test may change."""
    return shutil.copytree(finished[0], tmp_path / "run")


def report(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "srcset", "action"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or ""), (tag, attributes)
    policies = [a["content"] for t, a in page.tags if t == "meta" and "Content-Security" in a.get("http-equiv", "")]
    assert policies[0].startswith("default-src 'none'")


def test_vega_is_there_once(page, finished):
    assert sum("window.vegaEmbed =" in script or "window.vegaEmbed=" in script for script in page.scripts) == 1
    assert (finished[0] / "report.html").stat().st_size < 3e6


def test_every_section(page, finished):
    for title in (
        *("What the numbers say", "Results", "Accuracy of every seed", "Accuracy over epochs"),
        *("Agreement with the teacher", "Loss terms", "The teacher is right, the student wrong"),
        *("Notes", "Recipe", "Versions"),
    ):
        assert title in page.text
    for row in finished[1]["rows"]:
        assert f"{row['top1_mean']:.2f} ± {row['top1_std']:.2f}" in page.text
    for value in ("optimizer.lr", "0.05", "terms[0].weight", "0123abc", "resnet32x4"):
        assert value in page.text


def test_specs_have_their_places(page, finished):
    places = {attributes.get("id") for _, attributes in page.tags}
    wanted = [a["data-for"] for tag, a in page.tags if tag == "script" and "data-for" in a]
    assert len(page.specs) == len(wanted) == 8 + len(finished[1]["rows"])  # four of them on robustness
    assert set(wanted) <= places
    for spec in page.specs:
        assert "vega-lite" in spec["$schema"]
        assert spec["width"] == "container"
        assert vl_convert.vegalite_to_vega(spec)["marks"]  # what the reader's browser does with it


def test_examples_are_enlarged_and_escaped(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 5 * 16
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert {image["class"] for image in images} == {"small"}
    assert "ship & <boat>" in page.text
    assert "boat" not in {tag for tag, _ in page.tags}


def test_hostile_names_stay_text(run):
    summary = json.loads((run / "summary.json").read_text())
    evil = "</script><img src=x onerror=alert(1)>"
    summary["dataset"] = summary["notes"][0] = summary["teacher"]["model"] = summary["rows"][1]["method"] = evil
    (run / "summary.json").write_text(json.dumps(summary))
    found = report(run)
    assert evil in found.text
    assert not [a for tag, a in found.tags if tag == "img" and a.get("src") == "x"]
    assert any(evil in json.dumps(spec) for spec in found.specs)


def test_bare_run(run):
    (run / "recipe.json").unlink()
    for pattern in ("*/seed*/metrics.jsonl", "*/seed*/examples.json"):
        for path in run.glob(pattern):
            path.unlink()
    found = report(run)
    for title in ("Accuracy over epochs", "Loss terms", "student wrong", "Recipe", "Versions"):
        assert title not in found.text
    assert "Accuracy of every seed" in found.text


def test_a_line_cut_short_is_skipped_a_broken_one_is_not(run):
    path = run / "kd" / "seed0" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 31, "to')
    report(run)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match="line 31"):
        report(run)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("summary.json", None, r"no summary\.json"),
        ("summary.json", "{", "not JSON"),
        ("summary.json", "[]", "expected a JSON object"),
        ("summary.json", '{"dataset": "x"}', "lacks rows"),
        ("kd/seed0/examples.json", '{"items": [{"png": "!"}]}', "not an example"),
        ("kd/seed0/examples.json", '{"items": [{"png": "AAAA", "label": 1, "teacher": 1, "student": 2}]}', "PNG"),
    ],
)
def test_bad_input_leaves_the_old_report(run, name, content, says):
    (run / "report.html").write_text("old")
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        write_report(run)
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob(".report*"))


def test_folders_stay_inside_the_run(run):
    summary = json.loads((run / "summary.json").read_text())
    summary["rows"][0]["folders"][0] = "../elsewhere"
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="leaves the run"):
        write_report(run)
