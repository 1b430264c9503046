"""`potstill distill --data.root my.jsonl`: a user's own prompts and responses, from a shell."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import potstill
from potstill.cli import main
from potstill.engine import Engine
from potstill.language import tokenizers

PAIRS = [
    {"prompt": f"{who} {does} {what}", "response": f" {where}."}
    for who in ("A man", "A dog", "The child")
    for does in ("sees", "holds", "likes")
    for what in ("a ball", "some water", "the tree")
    for where in ("outside", "at home")
]
NEW = "--{0}.layers 1 --{0}.width {1} --{0}.heads 2 --{0}.context 64"
RUN = "--data.held-out 0.2 --vocabulary 280 --fit.epochs 2 --fit.batch-size 12 --precision float32 --device cpu"
TINY = [*NEW.format("teacher", 32).split(), *NEW.format("student", 16).split(), *RUN.split()]
SKD = "skd(draft=2,tokens=3)"


def written(path, rows=PAIRS):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A finished run: its folder, and what --json printed."""
    folder = tmp_path_factory.mktemp("texts")
    file = written(folder / "my.jsonl")
    words = ["--data.root", str(file), "--methods", "student", SKD, *TINY, "--data.measures", "rouge_l", "loss"]
    assert main(["distill", *words, "--judged", "4", "--quiet", "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_of_texts(mine, shell):
    summary = json.loads((mine / "summary.json").read_text())
    assert summary["kind"] == "scores"
    assert [one["name"] for one in summary["measures"]] == ["rouge_l", "loss", "token_accuracy"]
    assert [row["method"] for row in summary["rows"]] == ["student", SKD]
    assert summary["teacher"]["scores"]["loss"] > 0
    rows = [json.loads(line) for line in (mine / SKD / "seed0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["valid_loss"] == summary["rows"][1]["mean"]["loss"]
    assert 0 <= rows[-1]["report"]["replaced"] <= 1
    items = json.loads((mine / SKD / "seed0" / "samples.json").read_text())["items"]
    page = (mine / "report.html").read_text()
    assert 0 < len(items) <= 4
    assert all(item["prompt"] in page and item["references"][0].strip() in page for item in items)
    assert "What the networks answer" in page
    assert shell("report", mine)[0] == 0
    assert (mine / "report.html").is_file()


def test_the_student_is_a_folder_of_transformers(mine):
    folder = mine / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    cell = mine / SKD / "seed0"
    assert (folder / "model.safetensors").read_bytes() == (cell / "model" / "model.safetensors").read_bytes()
    item = json.loads((cell / "samples.json").read_text())["items"][0]
    asked = tokenizer(item["prompt"], return_tensors="pt")
    with torch.no_grad():
        said = model.generate(**asked, do_sample=False, max_new_tokens=40)[0, asked.input_ids.shape[1] :]
    answer = tokenizer.decode(said, skip_special_tokens=True)
    assert answer.startswith(item["response"])  # the judge stops after as many tokens as the longest response
    for run in (mine, cell):
        with pytest.raises(ValueError, match=r"language model: .*load_student.*from_pretrained"):
            potstill.load(run)


def test_json_and_a_run_that_is_there(mine, shell):
    words = ["distill", "--data.root", mine.parent / "my.jsonl", "--methods", "student", SKD, *TINY]
    words += ["--data.measures", "rouge_l", "loss", "--judged", "4", "--out", mine, "--quiet"]
    status, out, _ = shell(*words, "--resume", "--json")
    assert status == 0
    assert json.loads(out)["rows"][1]["method"] == SKD
    status, _, error = shell(*words)
    assert status == 1
    assert "--resume" in error


def test_an_interrupted_run_is_resumed(mine, shell, tmp_path, monkeypatch):
    """Ctrl-C while the student writes; the finished run has the bits of one that was not stopped."""
    words = ["distill", "--data.root", mine.parent / "my.jsonl", "--methods", SKD, *TINY]
    words += ["--data.measures", "rouge_l", "loss", "--judged", "4", "--quiet", "--out", tmp_path / "run"]
    move, steps = Engine.move, []

    def interrupting(self):
        move(self)
        if SKD in str(self.folder):
            steps.append(1)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "move", interrupting)
        status, _, error = shell(*words)
    assert status == 130
    assert "--resume" in error
    assert not (tmp_path / "run" / "summary.json").exists()
    assert shell(*words, "--resume")[0] == 0
    place = f"{SKD}/seed0/model/model.safetensors"
    assert (tmp_path / "run" / place).read_bytes() == (mine / place).read_bytes()


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (['{"prompt": "a", "response": "b"}', "{'prompt': 'a'}"], [], r"my\.jsonl, line 2: not JSON .*\n.*double"),
        ([*PAIRS, {"prompt": "A man", "response": " "}], [], r"line 55: the response is empty .* --data\.skip_empty"),
        ([*PAIRS, {"prompt": "A man " * 60, "response": " sits."}], [], r"(?s)line 55.*64"),
        ([{"text": "a"}] * 20, [], r"no telling which columns are the prompt; its columns are text"),
        ([{"prompt": f"A man {n}"} for n in range(30)], ["--data.response", "none"], "prompts only"),
        (PAIRS, ["--methods", "skdd"], r"unknown objective 'skdd'; did you mean 'skd'"),
        (PAIRS, ["--methods", "skd(K=5)"], r"skd has no option 'K'"),
        (PAIRS, ["--methods", "on_policy(top_p=0)"], r"top_p must lie in \(0, 1\]"),
        (PAIRS, ["--tokens", "10"], r"a batch of 10 tokens does not hold the longest text"),
        (PAIRS, ["--data.measures", "blue"], r"bleu"),
        (PAIRS, ["--student.name", "lama"], r"did you mean 'llama'"),
        (PAIRS, ["--precision", "bf16-compile"], r"compiles networks"),
    ],
)
def test_bad_input_is_one_clear_line(rows, more, message, shell, nothing_left, tmp_path):
    file = written(tmp_path / "my.jsonl", rows)
    status, _, error = shell("distill", "--data.root", file, *TINY, *more, "--out", nothing_left)
    assert status == 1
    (found,) = error.split("error: ")[1:]
    assert re.search(message, found), error
    assert "Traceback" not in error


def test_a_wrong_flag_names_the_right_one(shell, tmp_path, nothing_left):
    file = written(tmp_path / "my.jsonl")
    status, _, error = shell("distill", "--data.root", file, "--student.layer", "1", "--out", nothing_left)
    assert status == 2
    assert "--student.layers" in error


@pytest.mark.parametrize("what", ["another vocabulary", "NaN"])
def test_a_teacher_that_cannot_teach(what, mine, shell, tmp_path, nothing_left):
    """A stored teacher with another tokenizer than the one that is named, and one with broken weights."""
    folder, more = tmp_path / "teacher", []
    shutil.copytree(mine / "teacher" / "model", folder)
    if what == "NaN":
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][:] = float("nan")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        message = "NaN"
    else:
        larger = tokenizers.train(["quite other words, which are many more than before, and rarer ones"], 300)
        larger.save_pretrained(tmp_path / "larger")
        more, message = ["--tokenizer", tmp_path / "larger"], "student and teacher have different tokenizers"
    words = [
        *TINY[8:],
        "--judged",
        "0",
        "--teacher.name",
        folder,
        "--data.root",
        mine.parent / "my.jsonl",
        "--methods",
        "forward_kl",
    ]
    status, _, error = shell("distill", *words, *more, "--out", nothing_left)
    assert status == 1
    assert message in error
    assert error.count("\n") <= 12


def test_adapters_on_both_sides(mine, shell, tmp_path):
    """A teacher that trains adapters on a stored network, and a student that does so; both are found again."""
    stored = mine / "teacher" / "model"
    words = ["distill", "--data.root", mine.parent / "my.jsonl", "--methods", SKD, "--fit.epochs", "1"]
    words += [
        "--data.held-out",
        "0.2",
        "--fit.batch-size",
        "24",
        "--precision",
        "float32",
        "--device",
        "cpu",
        "--data.measures",
        "loss",
    ]
    words += ["--teacher.name", stored, "--student.name", stored, "--student.lora", "2", "--quiet"]
    assert shell(*words, "--out", tmp_path / "run")[0] == 0
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    before = load_file(stored / "model.safetensors")
    assert saved.keys() == before.keys()
    assert any(not torch.equal(value, before[name]) for name, value in saved.items())
    assert shell(*words, "--out", tmp_path / "run", "--resume")[0] == 0
