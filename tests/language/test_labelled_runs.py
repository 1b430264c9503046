"""Runs on labelled texts, as a user starts them: SST-2, STS-B, files of one's own, and what is wrong with those."""

import json
import shlex
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import transformers

from potstill.catalogue import recipe
from potstill.cell import assemble
from potstill.cli import main
from potstill.comparison import Options
from potstill.console import Talk
from potstill.engine import Engine
from potstill.language.folder import load_student
from potstill.language.labelled_recipe import LabelledRecipe
from potstill.language.labelled_run import checked, opened
from potstill.language.labelled_spec import LabelledText
from potstill.language.labelled_texts import load
from potstill.language.models import LanguageModel
from potstill.language.scored import for_scores

RECIPE = """\
from dataclasses import replace

from potstill.language.labelled_recipe import LABELLED_FIT, LabelledRecipe
from potstill.language.labelled_spec import LabelledText
from potstill.language.models import LanguageModel

def recipe(smoke=False):
    return LabelledRecipe(
        data=LabelledText(train_rows=48, valid_rows=16, share=24, max_length=32),
        teacher=LanguageModel("bert", layers=2, width=16, heads=2, context=32),
        student=LanguageModel("teacher", from_teacher=(1,), rule="first", dropout=None),
        vocabulary=200,
        methods=("student", "mixkd"),
        fit=replace(LABELLED_FIT, epochs=2, batch_size=8),
    )
"""
"""A teacher of 12 steps, students of 6."""
RECIPES = sorted(Path(__file__).parents[2].glob("recipes/language/*.py"))
WHOLE = ("--data.train-rows", "None", "--data.valid-rows", "None", "--data.share", 1.0)


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch):
    """`shell("--data.name", "sst2")`: that recipe in an empty folder; exit status, stdout and the lines of stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(RECIPE)

    def run(*words, named="small.py"):
        capsys.readouterr()
        status = main(["distill", named, "--precision", "float32", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err.splitlines()

    return run


@pytest.fixture(scope="session")
def rows(shared, tmp_path_factory):
    """`rows("sst2")`: a folder with the first rows of that data set."""

    def few(name):
        folder = tmp_path_factory.mktemp("rows", numbered=True) / name
        folder.mkdir()
        for split in ("train", "validation"):
            table = pq.read_table(shared("data", "text", name, f"{split}-00000-of-00001.parquet"))
            pq.write_table(table.slice(0, 64), folder / f"{split}.parquet")
        return folder

    return cache(few)


def errors(lines):
    return [line for line in lines if line.startswith("error:")]


def answers(model, tokenizer, *texts):
    with torch.no_grad():
        return model.eval()(**tokenizer(*texts, return_tensors="pt", padding=True)).logits


def press(monkeypatch, step):
    """Ctrl-C during a certain step. Returns the steps that are taken."""
    real, taken = Engine.train_on, []

    def train_on(self, batch):
        taken.append(step)
        if len(taken) == step:
            signal.raise_signal(signal.SIGINT)
        real(self, batch)

    monkeypatch.setattr(Engine, "train_on", train_on)
    return taken


def test_sst2_is_stopped_resumed_and_loaded_by_transformers(shell, rows, monkeypatch):
    words = ("--data.root", rows("sst2"), "--student.dropout", 0.1)
    status, out, said = shell(*words, "--out", "whole")
    assert status == 0
    assert "accuracy %" in out
    assert "data: sst2, 48 training and 16 validation texts, classes negative, positive" in said
    assert "  students see 24 of the 48 training texts; the teacher all" in said
    with monkeypatch.context() as patch:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        press(patch, 12 + 6 + 4)  # teacher, student, and into the second epoch of mixkd
        status, _, said = shell(*words, "--quiet", "--out", "cut")
        signal.signal(signal.SIGINT, before)
    assert status == 130
    again = shlex.split(said[-1].split("go on with: potstill distill small.py ")[1])
    taken = press(monkeypatch, 0)
    assert shell(*(word for word in again if word not in ("--precision", "float32")))[0] == 0
    assert len(taken) == 6 - 4
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert Path("whole/mixkd/seed0", file).read_bytes() == Path("cut/mixkd/seed0", file).read_bytes()

    ours = load_student("whole")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained("whole/model")
    tokenizer = transformers.AutoTokenizer.from_pretrained("whole/model")
    texts = ["a charming film", "not worth the ticket, nor the time that it takes"]
    logits = answers(theirs, tokenizer, texts)
    assert torch.equal(logits, answers(ours.model, ours.tokenizer, texts))
    assert theirs.config.id2label == {0: "negative", 1: "positive"}
    found = transformers.pipeline("text-classification", "whole/model")(texts, top_k=None)
    probability = logits.softmax(1)
    for row, scores in enumerate(found):
        for one in scores:
            expected = probability[row, theirs.config.label2id[one["label"]]].item()
            assert one["score"] == pytest.approx(expected, abs=1e-6)
    summary = json.loads(Path("whole/summary.json").read_text())
    assert [row["method"] for row in summary["rows"]] == ["student", "mixkd"]
    assert Path("whole/report.html").stat().st_size > 1000

    # A teacher that knows the task is not trained again, and says the same.
    status, _, said = shell(*words, "--teacher.name", "./whole/teacher/model", "--teacher.layers", "None",
                            "--teacher.width", "None", "--teacher.heads", "None", "--teacher.context", "None",
                            "--methods", "logit_mse", "--out", "again")  # fmt: skip
    assert status == 0
    scores = [json.loads(Path(run, "summary.json").read_text())["teacher"]["scores"] for run in ("whole", "again")]
    assert scores[0] == scores[1]
    assert not Path("again/teacher/metrics.jsonl").exists()


def test_stsb_is_a_regression(shell, rows):
    root = rows("stsb")
    methods = ("--methods", "student", "logit_mse", "mixkd(target=scores)")
    status, out, said = shell("--data.root", root, *methods, "--out", "run")
    assert status == 0
    assert "Pearson" in out
    assert "method student: score_mse:1" in said
    assert "method logit_mse: score_mse:1+logit_mse:1" in said
    ours = load_student("run")
    assert ours.model.config.id2label == {0: "score"}
    pair = {"text": "A man is dancing.", "text_pair": "Somebody dances."}
    found = transformers.pipeline("text-classification", "run/model")([pair])  # a regression: no sigmoid over it
    assert found[0]["score"] == pytest.approx(answers(ours.model, ours.tokenizer, *pair.values()).item(), abs=1e-5)


def test_files_of_ones_own(shell):
    lines = [f'"the {word} number {n}, it was",{word}' for n in range(20) for word in ("bad", "fine", "odd")]
    Path("mail.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    words = ("--methods", "student", "--fit.epochs", 1, "--quiet")
    status, _, _ = shell("--data.root", "mail.csv", *WHOLE, "--data.copies", 1, "--pieces", "bpe", "--vocabulary", 300,
                         *words, "--out", "one")  # fmt: skip
    assert status == 0
    assert load_student("one").model.config.id2label == {0: "bad", 1: "fine", 2: "odd"}
    (note, more) = json.loads(Path("one/summary.json").read_text())["notes"]
    assert "mail has no split to validate on" in note
    assert "and 1 edited of each" in more
    Path("data").mkdir()
    for split, count in (("train", 16), ("test", 6)):
        rows = [{"one": f"word {n % 5}", "two": f"word {n % 3}", "near": n % 4 + 0.5} for n in range(count)]
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("--data.text", "one", "--data.pair", "two", "--data.label", "near")
    assert shell("--data.root", "data", *WHOLE, *columns, *words, "--out", "two")[0] == 0
    rows = json.loads(Path("two/summary.json").read_text())["rows"]
    assert set(rows[0]["scores"]) == {"pearson", "spearman", "loss"}


def test_what_is_wrong_is_one_line(shell):
    Path("labels").mkdir()
    Path("labels/train.csv").write_text("text,label\n" + "good film,yes\nbad film,no\n" * 9)
    Path("labels/validation.csv").write_text("text,label\ngood film,yes\nso so,perhaps\n")
    Path("scores").mkdir()
    Path("scores/train.csv").write_text("text,score\n" + "one,0.5\ntwo,1.5\n" * 9 + "three,high\n")
    Path("numbers.csv").write_text("text,score\n" + "".join(f"film {n},{n}.5\n" for n in range(30)))
    Path("bare.jsonl").write_text('{"text": "good"}\n')
    for words, said in {
        ("--data.root", "labels"): "labels/validation.csv, line 3: training has no class 'perhaps'; known: no, yes",
        ("--data.root", "scores"): "scores/train.csv, line 20: the label 'high' is no number, as those of most rows",
        ("--data.root", "labels", "--data.kind", "scores"): "line 2: the label 'yes' is no number, as a score is",
        ("--data.root", "bare.jsonl"): "which column is the label? It has text",
        (
            "--data.root",
            "numbers.csv",
        ): "method 'mixkd': the labels of this data are scores; write mixkd(target=scores)",
        (
            "--data.root",
            "numbers.csv",
            "--methods",
            "kd",
        ): "kd compares classes, and the labels of this data are scores",
        ("--data.root", "numbers.csv", "--data.train-rows", 99): "training texts, fewer than the 99 asked for",
        ("--data.root", "nowhere"): "data.root nowhere does not exist",
        ("--data.max-length", 64): "data.max_length is 64 tokens, and the teacher reads 32",
    }.items():
        all_of = () if "--data.train-rows" in words else WHOLE
        status, out, lines = shell(*all_of, *words, "--out", "run")
        assert (status, out) == (1, ""), words
        assert said in errors(lines)[0], (words, lines)
        assert len(errors(lines)) == 1
        assert not Path("run").exists()
    with pytest.raises(ValueError, match="unknown labelled texts 'sst3'; did you mean 'sst2'"):
        LabelledText("sst3")
    with pytest.raises(ValueError, match=r"student\.head is masked; labelled texts need a classifier"):
        LabelledRecipe(student=LanguageModel("bert", head="masked"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_method_of_a_recipe_takes_two_steps(path, rows, tmp_path):
    made, _ = recipe(str(path), smoke=True)
    if not isinstance(made, LabelledRecipe):
        return
    made = replace(
        made,
        data=replace(made.data, root=rows(made.data.title), train_rows=8, valid_rows=4, share=1.0),
        fit=replace(made.fit, epochs=1, batch_size=4),
    )
    options = Options(tmp_path, torch.device("cpu"), Talk(quiet=True))
    methods, texts = checked(made, options), load(made.data)
    if not texts[0].names:
        methods = [for_scores(method) for method in methods]
    setting = opened(made, options, *texts)
    teacher = setting.guide(0)
    for method in methods:
        for stage in method.stages:
            engine = assemble(
                setting.student(method, 0, teacher),
                teacher if method.needs_teacher else None,
                method,
                setting.examples(stage.fit(made.fit), 0),
                stage.fit(made.fit),
                stage=stage,
                **setting.others(0),
            )
            history = engine.run().history
            assert engine.step >= 2
            assert history[-1]["loss"] == history[-1]["loss"]
