"""Runs in which teacher and student each bring a tokenizer: two folders, as a user has them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from language_kit import tiny

from potstill.comparison import Options
from potstill.console import Talk
from potstill.language import folder, tokenizers
from potstill.language.models import LanguageModel, build
from potstill.language.pairing import both, crossed
from potstill.language.recipe import LanguageRecipe
from potstill.language.run import run
from potstill.language.spec import Text
from potstill.language.texts import Texts
from potstill.recipe import Fit
from potstill.tasks.language import Language
from potstill.types import Batch

ANIMALS = ["the cat", "a dog", "猫", "两只狗", "القط"]
PLACES = ["in the garden", "on the roof", "在屋顶上", "في الحديقة"]
ROWS = [
    {"prompt": f"Where is {animal}? {place}\n", "response": f"{animal.capitalize()} is {place}。👩\u200d👧"}
    for animal in ANIMALS
    for place in PLACES
]
WORDS = [text for row in ROWS for text in row.values()]
FIT = Fit(epochs=2, batch_size=8, optimizer="adamw", lr=3e-3)
SIZES = {"layers": 1, "width": 16, "heads": 2, "context": 160}
TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}[assistant] "


def saved(place, vocabulary, seed, network=tiny, **kw):
    tokenizer = tokenizers.train(WORDS, vocabulary, chat_template=TEMPLATE if seed else None)
    folder.save_folder(place, network(vocabulary=len(tokenizer), seed=seed, **{**SIZES, **kw}), tokenizer)
    return LanguageModel(str(place))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a student's folder and a teacher's, of different tokenizers."""
    place = tmp_path_factory.mktemp("two")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    saved(place / "student", 290, 0)
    saved(place / "teacher", 340, 1)
    return place


def recipe(place, *methods, **kw):
    data = Text(root=place / "rows.jsonl", held_out=0.3, measures=("chrf", "loss"))
    student, teacher = (LanguageModel(str(place / name)) for name in ("student", "teacher"))
    own = {"data": data, "student": student, "teacher": teacher, "fit": FIT, "judged": 3}
    return LanguageRecipe(**{**own, "methods": methods, **kw})


def ran(recipe, out, **kw):
    return run(recipe, Options(out, torch.device("cpu"), Talk(quiet=True), **kw))


def rows(out, method):
    return [json.loads(line) for line in (out / method / "seed0" / "metrics.jsonl").read_text().splitlines()]


def test_methods_of_two_tokenizers_in_one_run(place, tmp_path):
    methods = ("student", "gold", "gold(hybrid=True)", "uld", "on_policy(tokens=6)+gold")
    summary = ran(recipe(place, *methods), tmp_path / "out", precision="float32")
    assert [cell["method"] for cell in summary["cells"]] == list(methods)
    (note,) = [note for note in summary["notes"] if "two tokenizers" in note]
    assert "to the student's and" in note
    print(summary)
