"""A language teacher that is paid once: potstill cache RECIPE, then distill with --teacher.cache."""

import json

import pytest
import torch

from potstill.language import tokenizers
from potstill.language.folder import save_folder
from potstill.language.models import LanguageModel, build

RECIPE = """\
from pathlib import Path
from potstill import Fit
from potstill.language.models import LanguageModel
from potstill.language.recipe import LanguageRecipe
from potstill.language.spec import Text

def recipe(smoke=False):
    return LanguageRecipe(
        data=Text(root=Path("sums.jsonl")),
        teacher=LanguageModel(layers=1, width=32, heads=2),
        student=LanguageModel(layers=1, width=16, heads=2),
        methods=("forward_kl",),
        fit=Fit(epochs=2, batch_size=20, optimizer="adamw", lr=1e-3, drop_last=False),
        judged=0,
    )
"""
LINES = [{"prompt": f"{a} + {b} =", "response": f" {a + b}, which is the sum"} for a in range(6) for b in range(10)]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A teacher with its tokenizer, as a folder of transformers."""
    texts = [part for line in LINES for part in line.values()]
    tokenizer = tokenizers.train(texts, 280)
    network = build(LanguageModel(layers=1, width=32, heads=2), tokenizer)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1 if weight.ndim == 1 else 6)
    return save_folder(tmp_path_factory.mktemp("weights") / "teacher", network, tokenizer)


@pytest.fixture
def said(shell, weights, tmp_path, monkeypatch):
    """`said("cache", …)` with that teacher, in a folder with the recipe and its texts; no report is drawn."""
    monkeypatch.setattr("potstill.language.comparison.write_report", lambda folder: None)
    (tmp_path / "sums.py").write_text(RECIPE)
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))

    def run(command, *words, teacher=weights):
        more = [] if teacher is None else ["--teacher", teacher]
        return shell(command, "sums.py", *more, *words)

    return run


def losses(folder):
    lines = (folder / "forward_kl" / "seed0" / "metrics.jsonl").read_text().splitlines()
    return torch.tensor([[row["loss"], row["valid_loss"]] for row in map(json.loads, lines)])


def test_taught_from_the_cache_as_from_the_live_teacher(said, tmp_path):
    status, out, err = said("cache", "--hidden", "--out", "h", "--at-once", "256")
    assert status == 0, err
    assert "32 hidden numbers of each of" in out
    status, out, err = said("cache", "--top-k", "280", "--out", "k", "--quiet", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["kind"], found["texts"]) == (
        "top-k",
        json.loads((tmp_path / "k" / "about.json").read_text())["samples"],
    )
    usual = ("--quiet", "--precision", "float32")
    for folder, words in (("live", ()), ("from_h", ("--teacher.cache", "h")), ("from_k", ("--teacher.cache", "k"))):
        status, _, err = said("distill", *usual, *words, "--out", folder)
        assert status == 0, err
    live = losses(tmp_path / "live")
    assert live[0, 0] > 0.1
    for folder in ("from_h", "from_k"):
        torch.testing.assert_close(losses(tmp_path / folder), live, rtol=1e-4, atol=1e-5)
    teacher = json.loads((tmp_path / "from_h" / "summary.json").read_text())["teacher"]
    assert teacher["cache"] == "h"
    assert teacher["scores"]["loss"] > 0
    # Fewer texts are found by their content, and students may be made from the teacher that is not asked.
    fewer = ("--data.train-rows", "20", "--student", "teacher", "--fit.epochs", "1")
    status, _, err = said("distill", *usual, "--teacher.cache", "h", *fewer, "--out", "fewer")
    assert status == 0, err


def test_what_does_not_fit_is_refused(said, weights, tmp_path, nothing_left):
    assert said("cache", "--top-k", "8", "--out", "k", "--quiet")[0] == 0
    tokenizer = tokenizers.load(weights)
    other = build(LanguageModel(layers=1, width=32, heads=2), tokenizer, seed=1)
    save_folder(tmp_path / "other", other, tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(tmp_path / "chat")
    lines = [{**line, "response": line["response"] + "!"} if n == 30 else line for n, line in enumerate(LINES)]
    (tmp_path / "changed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    usual = ("--teacher.cache", "k", "--quiet", "--precision", "float32", "--out", nothing_left)
    for words, message in (
        (("--teacher", "./other"), "not of this recipe's teacher and tokenizer; they differ in teacher ("),
        (("--tokenizer", "./chat"), "they differ in tokenizer ("),
        (("--data.root", "changed.jsonl"), "are none of them, the first from changed.jsonl"),
        (("--methods", "forward_kl(temperature=2)"), "has temperature 2, and the teacher's TopLogits are known at"),
        (("--methods", "on_policy+reverse_kl"), "on_policy asks the teacher about texts that are written"),
        (("--methods", "gkd(share=0.001)"), "gkd asks the teacher about texts that are written"),
        (("--methods", "seqkd"), "seqkd asks the teacher about texts that are written"),
        (("--methods", "skd"), "skd asks the teacher about texts that are written"),
        (("--student.cache", "k"), "student.cache: the student is trained"),
        (("--teacher.cache", "nowhere"), "nowhere holds no cache (no about.json)"),
        (("--teacher", "llama"), "has no weights that the cache could be checked against"),
    ):
        status, _, err = said("distill", *usual, *words)
        assert (status, message in err) == (1, True), (words, err)
    for words, message in (
        ((), "say what is kept: --top-k K"),
        (("--hidden", "--temperature", "2"), "--temperature has no effect on hidden states"),
        (("--top-k", "8", "--served", "http://127.0.0.1:9", "--temperature", "2"), "at temperature 1"),
        (("--top-k", "8", "--served-model", "x"), "--served-model has no effect without --served"),
    ):
        status, _, err = said("cache", *words, "--out", "new", "--quiet")
        assert (status, message in err) == (1, True), (words, err)
    status, _, err = said("cache", "--top-k", "8", "--out", "new", "--quiet", teacher=None)
    assert (status, "has no weights" in err) == (1, True)
