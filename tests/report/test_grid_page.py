"""The report of a grid as a file: sections, links, names that stay text, and input that is refused."""

import json
import re
import shutil

import pytest
from grid_case import METHODS, PAIRS
from test_page import Page

from potstill.report import figures, grid_figures
from potstill.report.grid_page import overview
from potstill.report.grid_tables import methods
from potstill.report.page import write_report
from potstill.report.toggles import toggled


@pytest.fixture
def copied(grid, tmp_path):
    """A copy of the grid that a test may change, and a way to change its summary."""
    out = shutil.copytree(grid[0], tmp_path / "grid")

    def change(summary):
        (out / "summary.json").write_text(json.dumps(summary))
        return out

    return out, change


@pytest.fixture(scope="module")
def page(grid):
    return Page(write_report(grid[0]).read_text(encoding="utf-8"))


def test_every_section(page):
    for title in (
        *("What the numbers say", "Difference to the lone student", "What holds over all pairs", "Accuracy"),
        *("Wins, ties and losses against icd", "Every seed", "Pair by pair", "Failed", "Notes", "Grid"),
    ):
        assert title in page.text
    for text in (*PAIRS, *METHODS, "84 trained students", "2 failed", "data_seed", "0123abc"):
        assert text in page.text


def test_it_is_one_file(page, grid):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert not re.match(r"(https?:)?//", attributes.get(name) or ""), (tag, attributes)
    assert (grid[0] / "report.html").stat().st_size < 1.5e6


def test_charts_have_their_places(page):
    places = {attributes.get("id") for _, attributes in page.tags}
    wanted = [a["data-for"] for tag, a in page.tags if tag == "script" and "data-for" in a]
    assert len(page.specs) == len(wanted) == 2 + len(PAIRS)  # two forests, and the seeds of each pair
    assert set(wanted) <= places


def test_only_reports_that_exist_are_linked(page):
    links = [a["href"] for tag, a in page.tags if tag == "a" and not a["href"].startswith("#")]
    assert links == ["pairs/wrn_40_2-wrn_16_2/report.html"]


def test_the_overview_colours_by_difference(grid):
    found = overview(grid[1], methods(grid[1]))
    lines = {line["method"]: line["cells"] for line in found["lines"]}
    assert "student" not in lines
    assert {cell["side"] for cell in lines["icd+kd"]} == {"up"}
    assert [cell["side"] for cell in lines["fitnet"]] == ["down", "down", ""]
    assert lines["icd+kd"][0]["depth"] > lines["kd"][0]["depth"] > 0
    assert max(cell["depth"] for cells in lines.values() for cell in cells) == 1


def test_one_colour_per_method_though_a_pair_lacks_some(grid):
    shades = figures.colours(methods(grid[1]), "student")
    for pair in grid[1]["pairs"]:
        spec = grid_figures.seeds_of_pair(pair["summary"], methods(grid[1])).to_dict()
        scale = spec["layer"][0]["encoding"]["color"]["scale"]
        assert all(shades[name] == colour for name, colour in zip(scale["domain"], scale["range"], strict=True))


def test_the_forest_has_the_largest_first_and_the_margin(grid):
    claims = [claim for claim in grid[1]["claims"] if claim["baseline"] == "kd"]
    spec = grid_figures.forest(claims, 0.3).to_dict()
    assert next(layer["encoding"]["y"]["sort"] for layer in spec["layer"] if "y" in layer["encoding"])[0] == "icd+kd"
    assert {"low": -0.3, "high": 0.3} in spec["datasets"][spec["layer"][0]["data"]["name"]]
    assert grid_figures.forest([], 0.3) is None


def test_every_layer_that_names_methods_can_let_go_of_them(grid):
    spec = toggled(grid_figures.seeds_of_pair(grid[1]["pairs"][0]["summary"], methods(grid[1])))
    assert {"name": "hiddenMethods", "value": []} in spec["params"]
    filtered = [any("hiddenMethods" in str(t) for t in layer.get("transform", [])) for layer in spec["layer"]]
    assert filtered == [True, True, True, False, False]  # the teacher's rule and its name stay


def test_a_grid_without_claims_or_results(copied, grid):
    bare = {key: value for key, value in grid[1].items() if key not in ("claims", "tallies", "notes", "reference")}
    bare["title"] = ""
    found = Page(write_report(copied[1](bare)).read_text())
    assert "What holds over all pairs" not in found.text
    assert "Accuracy" in found.text
    assert "0 pairs" in Page(write_report(copied[1]({**bare, "pairs": []})).read_text()).text


def test_hostile_names_stay_text(copied, grid):
    evil = "</script><img src=x onerror=alert(1)>"
    found = Page(write_report(copied[1](json.loads(json.dumps(grid[1]).replace("fitnet", evil)))).read_text())
    assert evil in found.text
    assert not [tag for tag, _ in found.tags if tag == "img"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pairs": [{"pair": "a", "folder": "../../elsewhere"}]}, "leaves the run"),
        ({"title": None}, "lacks title"),
    ],
)
def test_bad_input_leaves_the_old_report(copied, grid, change, says):
    out, write = copied
    summary = {**grid[1], **change}
    if change.get("pairs"):
        summary["pairs"] = [{**grid[1]["pairs"][0], **change["pairs"][0]}]
    write({key: value for key, value in summary.items() if value is not None})
    (out / "report.html").write_text("old")
    with pytest.raises(ValueError, match=says):
        write_report(out)
    assert (out / "report.html").read_text() == "old"
