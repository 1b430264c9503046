"""docs/methods/ says what the classes say."""

import importlib.util
import re
from pathlib import Path

import pytest

from potstill.methods_index import MATCHES, Paper, entries
from potstill.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("method_pages", ROOT / "docs" / "methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


def test_the_pages_are_up_to_date(made):
    found = {path.name: path.read_text() for path in (ROOT / "docs" / "methods").glob("*")}
    stale = sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))
    assert not stale, f"docs/methods is stale ({', '.join(stale)}): run python docs/methods.py"


def test_every_method_has_a_page_and_every_golden_stands_on_one(made):
    assert {f"{entry.name}.md" for entry in entries()} | {"README.md"} == made.keys()
    for entry in entries():
        assert f"]({entry.name}.md)" in made["README.md"]
    told = re.findall(r"^- golden `(\w+)`", "\n".join(made.values()), flags=re.MULTILINE)
    assert sorted(told) == sorted(path.stem for path in (ROOT / "tests" / "goldens").glob("*.npz"))


def test_mathematics_is_in_the_forms_that_github_leaves_alone(made):
    for name, text in made.items():
        prose = re.sub(r"```.*?```|\$`[^`\n]+`\$", "", text, flags=re.DOTALL)
        assert "$" not in prose, name


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if kind.part_of is None])
def test_every_method_declares_what_it_matches_and_whose_weight_it_has(name):
    assert OBJECTIVES[name].matches in MATCHES
    assert OBJECTIVES[name].weight_from


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if kind.paper])
def test_papers_can_be_read(name):
    paper = Paper.parse(OBJECTIVES[name].paper)
    assert 2010 < paper.year < 2030
    assert re.fullmatch(r"[A-Za-z]*", paper.venue)
    assert re.fullmatch(r"\d{4}\.\d{4,5}|", paper.arxiv)
    assert paper.venue or paper.arxiv
    with pytest.raises(ValueError, match="expected 'Authors: Title"):
        Paper.parse("Somebody, somewhere")
