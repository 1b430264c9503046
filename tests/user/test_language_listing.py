"""What the lists and the commands say of language models: what there is, what it costs, and who does not take them."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")
from transformers import AutoModelForCausalLM

from potstill import catalogue
from potstill.language.known import KNOWN
from potstill.methods import parse
from potstill.pairs import Pair, tried
from potstill.report.listing import methods as table
from potstill.schemes import SCHEMES

TINY = """\
from potstill.language.models import LanguageModel
from potstill.language.recipe import FIT, LanguageRecipe
from potstill.language.spec import Text
from dataclasses import replace
from pathlib import Path

def recipe(smoke=False):
    return LanguageRecipe(
        data=Text("mine", root=Path("mine.jsonl")),
        teacher=LanguageModel(layers=1, width=32, heads=2, context=64),
        student=LanguageModel(layers=1, width=16, heads=2, context=64),
        vocabulary=270,
        methods=("student", "skd"),
        fit=replace(FIT, epochs=1, batch_size=4),
    )
"""
WRITERS = {"distillm", "gkd", "imitkd", "minillm", "on_policy", "seqkd", "skd"}


@pytest.fixture
def texts(shell, tmp_path):
    """The shell in a folder with a recipe of language models, tiny.py, and its texts."""
    lines = [{"prompt": f"{n} plus one is ", "response": f"{n + 1}."} for n in range(24)]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "tiny.py").write_text(TINY)
    return shell


def test_text_data_and_recipes_are_listed(shell):
    data = {row["data"]: row["what"] for row in json.loads(shell("list", "data", "--json")[1])}
    assert {name for name, what in data.items() if what.startswith("texts:")} == KNOWN.keys()
    recipes = {row["recipe"]: row["what"] for row in json.loads(shell("list", "recipes", "--json")[1])}
    shipped = list((Path(__file__).parents[2] / "recipes" / "language").glob("*.py"))
    assert {path.stem for path in shipped} <= recipes.keys()
    assert all(recipes[path.stem].endswith((".", '".')) for path in shipped)


def test_methods_for_texts_can_be_told_from_others():
    names = ["kd", "skd", "okd", "mixkd", "tinybert"]
    found = tried(Pair("small_cnn", "small_cnn", size=8, classes=3), [parse(name) for name in names]).added
    assert [added.applies for added in found] == [True, False, True, False, False]
    reasons = dict(zip(names, (added.reason for added in found), strict=True))
    assert reasons["skd"] == "it learns from texts, a prompt and its response"
    assert "for images take mixup_kd" in reasons["mixkd"]
    assert {name for name, kind in SCHEMES.items() if kind.wants.startswith("texts, a prompt")} == WRITERS


def test_the_table_of_methods_says_what_they_are_for():
    def row(name, wants):
        usual = dict.fromkeys(("year", "weight", "weight_from", "parameters", "stages", "stands_for", "title"), "")
        return {"method": name, "matches": "logits", **usual, "wants": wants}

    found = tried(Pair("small_cnn", "small_cnn", size=8, classes=3), [])
    notes = table([row("kd", None), row("skd", "texts"), row("gkd", "texts")], found, 160).renderables
    assert any(str(note).strip() == "skd, gkd: for texts." for note in notes[1:])


def test_what_a_recipe_costs(texts, tmp_path):
    status, out, err = texts("check", "tiny.py", "--rounds", "1", "--json", "--quiet", "--precision", "float32")
    assert (status, err) == (0, "")
    found = json.loads(out)
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == ["teacher", "student", "skd"]
    assert all(row["peak_mib"] > 4 * row["parameters"] / 2**20 for row in rows.values())
    assert rows["teacher"]["parameters"] > rows["skd"]["parameters"]
    assert rows["student"]["teacher_share"] == rows["student"]["writing_share"] == 0
    assert 0 < rows["skd"]["teacher_share"] < 1
    assert 0 < rows["skd"]["writing_share"] <= 1
    assert rows["student"]["tokens_per_second"] > 0
    total = sum(row["steps"] * row["step_ms"] / 1000 for row in rows.values())
    assert found["eta_seconds"] == pytest.approx(total, rel=0.05, abs=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.jsonl",
        "small.py",
        "tiny.py",
    ]  # nothing is written


def test_only_the_teacher(texts):
    words = ("train", "tiny.py", "--teachers", "there", "--precision", "float32")
    status, out, err = texts(*words, "--json", "--quiet")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["scores"]["loss"] > 0
    assert AutoModelForCausalLM.from_pretrained(found["folder"]).config.hidden_size == 32
    again = texts(*words)
    assert again[0] == 0
    assert again[1].splitlines()[-1] == found["folder"]  # it is there, and is not trained again
    own = f"LanguageModel('./{found['folder']}')"
    Path("taught.py").write_text(TINY.replace("LanguageModel(layers=1, width=32, heads=2, context=64)", own))
    status, _, err = texts("train", "taught.py", "--teachers", "there", "--quiet")
    assert status == 1
    assert "there is nothing to train" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bench", "tiny.py"), "tiny.py is a recipe of language models, and a grid compares image classifiers"),
        (("evaluate", "run", "--suite", "retrieval"), "run is a run of language models"),
        (("transfer", "run", "--data", "digits"), "run is a run of language models"),
        (("check", "tiny.py", "--roundz", "3"), "no option --roundz; did you mean '--rounds'?"),
        (("check", "tinny.py"), "no recipe or grid 'tinny.py'"),
    ],
)
def test_who_does_not_take_them(texts, tmp_path, words, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"kind": "scores", "rows": []}))
    status, out, err = texts(*words)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_texts_of_ones_own_need_no_recipe(texts):
    assert catalogue.language(None, True, "mine.jsonl").methods == ("student", "skd")
    assert catalogue.language(None, True, None) is None
    assert catalogue.language("small.py", True) is None
