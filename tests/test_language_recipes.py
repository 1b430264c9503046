"""Every language recipe that ships takes two steps at smoke size, on a few of its texts."""

import ast
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from potstill import catalogue
from potstill.cell import assemble
from potstill.comparison import Options
from potstill.console import Talk
from potstill.language import tokenizers
from potstill.language.recipe import LanguageRecipe
from potstill.language.run import checked, opened

FOLDER = Path(__file__).parents[1] / "recipes" / "language"
MADE = {str(path): catalogue.recipe(str(path), smoke=True)[0] for path in sorted(FOLDER.glob("*.py"))}
RECIPES = [path for path, made in MADE.items() if isinstance(made, LanguageRecipe)]
"""Those of texts with labels are in language/test_labelled_runs.py."""
ROWS = 4
METHODS = {path: MADE[path].methods for path in RECIPES}


def tried(path):
    """The recipe's last method, and those that no recipe before it has: four tasks share seven methods."""
    before = {method for other in RECIPES[: RECIPES.index(path)] for method in METHODS[other]}
    return tuple(method for method in METHODS[path] if method not in before or method == METHODS[path][-1])


@cache
def tokenizer(folder):
    """One for all: what is tested is not the training of tokenizers."""
    made = tokenizers.train(["Question: how many? Summary: one. Answer: #### 42"] * 4, 300)
    made.save_pretrained(folder)
    return str(folder)


def small(made, root, words):
    """The recipe on a few texts of its data, with networks of its architectures that take no time."""
    data = replace(made.data, root=root, train_rows=ROWS, valid_rows=2, max_prompt=12, max_response=5, too_long="cut")
    fit = replace(made.fit, epochs=1, batch_size=ROWS // 2)
    teacher, student = (replace(one, layers=1, width=16, heads=2, context=64) for one in (made.teacher, made.student))
    return replace(made, data=data, fit=fit, tokenizer=words, teacher=teacher, student=student)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: Path(path).stem)
def test_the_methods_of_a_recipe_take_two_steps(path, shared, tmp_path, tmp_path_factory):
    made, _ = catalogue.recipe(path, smoke=True)
    words = tokenizer(tmp_path_factory.getbasetemp() / "words")
    made = small(made, shared("data", "text", made.data.name), words)
    options = Options(tmp_path, torch.device("cpu"), Talk(quiet=True))
    made, methods = checked(replace(made, methods=tried(path)), options)
    setting = opened(made, options)
    teacher = setting.teacher(setting.network(made.teacher, "teacher", 0))
    for method in methods:
        engine = assemble(
            setting.student(method, 0, teacher),
            teacher if method.needs_teacher else None,
            method,
            setting.examples(made.fit, 0),
            made.fit,
            evaluated=False,
            **setting.others(0),
        )
        history = engine.run().history
        assert engine.step >= 2
        assert history[-1]["loss"] == history[-1]["loss"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: Path(path).stem)
def test_the_full_size_can_be_asked_for(path, tmp_path):
    """Its values fit each other; no network of the hub is fetched."""
    made, _ = catalogue.recipe(path, smoke=False)
    said = []
    talk = Talk(quiet=True)
    talk.warn = said.append
    _, methods = checked(made, Options(tmp_path, torch.device("cpu"), talk))
    assert said == []  # no value of it is without effect
    assert len(methods) == len(made.methods)
    assert made.title
    assert made.data.known is not None


def test_recipes_import_values_alone():
    """They are read, and listed, before transformers is loaded."""
    values = ("models", "protocols", "recipe", "spec")
    light = {"dataclasses", "potstill.recipe", *(f"potstill.language.{name}" for name in values)}
    for path in RECIPES:
        body = ast.parse(Path(path).read_text()).body
        named = {node.module for node in body if isinstance(node, ast.ImportFrom)}
        assert named <= light, path
        assert not [node for node in body if isinstance(node, ast.Import)], path
