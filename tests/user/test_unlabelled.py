"""Distillation without labels: from a folder of pictures on the command line, from tensors in Python."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from networks import PlainCNN, bars
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

import potstill
from potstill.cli import main
from potstill.methods import parse
from potstill.objectives import OBJECTIVES
from potstill.objectives.fitnet import FitNet
from potstill.report.page import read_summary
from potstill.report.tables import markdown_table
from potstill.report.tidy import records
from potstill.terms import Term
from potstill.unlabelled import answered, untaught_answers, without_labels

METHODS = ("ce:0+icd+kd", "ce:0+fitnet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A hundred digits as PNG files, some of them in folders that are no classes."""
    root = tmp_path_factory.mktemp("unlabelled") / "photos"
    pixels = (load_digits().images[-100:] * 255 / 16).round().astype("uint8")
    for number, image in enumerate(pixels):
        folder = root / ("", "summer", "summer/week2/sunday")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def words(photos, good):
    """What every command is told."""
    teacher = ["--teacher.name", "small_cnn", "--teacher.width", "16", "--teacher.outputs", "10"]
    teacher += ["--teacher.checkpoint", str(good / "teacher" / "student.safetensors")]
    fit = ["--fit.epochs", "12", "--fit.batch-size", "18", "--fit.lr", "0.1", "--student.name", "small_cnn"]
    data = ["--data.root", str(photos), "--data.unlabelled", "--data.augment", "none", "--data.valid-fraction", "0.28"]
    return [*data, *teacher, *fit, "--precision", "float32"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["distill", *words, "--methods", *METHODS, "--quiet", "--out", str(out)]) == 0
    return out


def answers(folder):
    with safe_open(folder / "outputs.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_agreement_is_a_count_of_equal_answers(run):
    taught, learnt = answers(run / "teacher"), answers(run / METHODS[0] / "seed0")
    same = sum(int(a.argmax()) == int(b.argmax()) for a, b in zip(taught["logits"], learnt["logits"], strict=True))
    assert len(taught["logits"]) == 28
    assert 0 < same <= 28
    row = read_summary(run)["rows"][0]
    assert row["agreement"] == pytest.approx([100 * same / 28])
    rows = [json.loads(line) for line in (run / METHODS[0] / "seed0" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["agreement"] == pytest.approx(row["agreement"][0])
    assert all("top1" not in row and "valid_loss" not in row for row in rows)


def test_kd_without_labels_follows_the_teacher(run):
    """The teacher knows digits: ten answers at random would agree on a tenth."""
    assert read_summary(run)["rows"][0]["agreement_mean"] > 40


def test_nothing_is_called_an_accuracy(run):
    summary = read_summary(run)
    assert summary["measure"] == "agreement"
    assert "top1" not in summary["teacher"]
    assert all(row["top1"] == row["best_top1"] == [None] and row["top1_mean"] is None for row in summary["rows"])
    table, page = markdown_table(summary), (run / "report.html").read_text()
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for text in (table, page):
        assert "nothing here is an accuracy" in text
        assert "top-1" not in text
        assert "ECE" not in text
        assert "over the lone student" not in text
    assert "agreement with the teacher in percent" in page
    found = records(summary).to_pylist()
    assert [record["top1"] for record in found] == [None, None]
    assert found[0]["agreement"] > 0
    card = json.loads((run / METHODS[0] / "seed0" / "student.json").read_text())
    assert "top1" not in card
    assert card["agreement"] == summary["rows"][0]["agreement"][0]
    assert card["classes"] == []


def test_a_classifier_that_nothing_taught_has_no_result(run):
    summary = read_summary(run)
    assert [row["agreement"] for row in summary["rows"] if not row["classifies"]] == [[None]]
    assert summary["fidelity"]["ce:0+fitnet"]["agreement"] is None
    row = next(line for line in markdown_table(summary).splitlines() if "fitnet" in line and line.startswith("|"))
    assert "%" not in row
    assert f"{summary['fidelity']['ce:0+fitnet']['cka']:.3f}" in row
    assert any("no loss reaches the student's answer" in note for note in summary["notes"])
    page = (run / "report.html").read_text()
    assert "features of 1 seed without a trained classifier; CKA of its embeddings" in page


def test_the_report_is_written_again(run):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run), "--quiet"]) == 0
    assert (run / "report.html").read_text() == before
    assert "t-SNE" not in re.sub(r"<script.*?</script>", "", before, flags=re.DOTALL)


def test_a_suite_is_not_run_on_data_without_labels(run, capsys):
    assert main(["evaluate", str(run), "--suite", "retrieval", "--quiet"]) == 1
    assert "has no labels, and a suite judges by labels" in capsys.readouterr().err


def test_embed_gives_what_the_run_kept(run, photos):
    folder = run / METHODS[1] / "seed0"
    student = potstill.load(folder)
    files = sorted(photos.rglob("*.png"))
    found = student.embed(files)
    kept = answers(folder)["embedding"]
    assert found.shape == (100, kept.shape[1])
    nearest = torch.cdist(kept, found, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert nearest.max() < 1e-4  # every validation image is one of the files
    assert torch.allclose(student.embed(files[0]), found[:1], atol=1e-6)
    tensor = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files[:5]])
    assert torch.allclose(student.embed(tensor[:, None]), found[:5], atol=1e-5)
    assert set(student.predict(files[:3])) <= {str(k) for k in range(10)}


def test_check_and_cache(words, tmp_path, capsys):
    methods = ["--methods", "ce:0+kd"]
    assert main(["check", *words, *methods, "--rounds", "1", "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dataset"]["train"] == 72
    assert [row["method"] for row in said["methods"]] == ["ce:0+kd"]
    cache, out = tmp_path / "cache", tmp_path / "run"
    precision = [*words[:-2]]
    assert main(["cache", *precision, *methods, "--out", str(cache), "--precision", "float32", "--quiet"]) == 0
    assert main(["distill", *words, *methods, "--teacher.cache", str(cache), "--out", str(out), "--quiet"]) == 0
    assert read_summary(out)["rows"][0]["agreement_mean"] > 0


@pytest.mark.parametrize(
    ("command", "extra", "message"),
    [
        ("distill", ["--methods", "student"], "term 'ce' needs labels.*write a method without it, e.g. 'ce:0.kd'"),
        ("distill", ["--methods", "ce:0+kd", "icd+kd"], "'icd.kd': its term 'ce' needs.*write 'ce:0.icd:1.kd:1'"),
        ("distill", ["--methods", "kd"], "'kd': its term 'ce' needs labels.*write 'ce:0.kd:0.9'"),
        ("distill", ["--methods", "ce:0+dkd"], "term 'dkd' needs labels"),
        ("distill", ["--methods", "ce:0+crd"], "crd: .*label of every training sample.*crd.exclude=self"),
        ("distill", ["--methods", "dml"], "term 'ce' needs labels"),
        ("distill", ["--methods", "ckd"], "method 'ckd' makes its examples of labels"),
        ("distill", ["--methods", "ce:0+kd", "--fit.schedule", "plateau"], "plateau watches an accuracy"),
        ("check", ["--methods", "kd"], "term 'ce' needs labels"),
        ("bench", [], "a grid compares accuracies"),
        ("distill", ["--methods", "ce:0+kd", "--student.outputs", "7"], "answers with 10 classes and the student with"),
    ],
)
def test_what_needs_labels_is_refused_before_the_first_step(words, tmp_path, capsys, command, extra, message):
    out = [] if command == "check" else ["--out", str(tmp_path / "out")]
    if command == "bench":
        recipe = tmp_path / "small.py"
        recipe.write_text(
            "from pathlib import Path\nfrom potstill import Data, Network, Recipe\n\ndef recipe(smoke=False):\n"
            f"    data = Data(root=Path({words[1]!r}), unlabelled=True)\n"
            "    teacher = Network('small_cnn', outputs=10, checkpoint=Path('teacher.safetensors'))\n"
            "    return Recipe(data=data, teacher=teacher, student=Network('small_cnn'), methods=('ce:0+kd',))\n"
        )
        arguments = ["bench", str(recipe), "--precision", "float32", *out]
    else:
        arguments = [command, *words, *extra, *out, "--quiet"]
    assert main(arguments) == 1
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "out").exists()


def test_a_teacher_without_weights_or_outputs_is_refused(words, tmp_path, capsys):
    place = words.index("--teacher.checkpoint")
    bare = words[:place] + words[place + 2 :]
    assert main(["distill", *bare, "--methods", "ce:0+kd", "--out", str(tmp_path / "a"), "--quiet"]) == 1
    assert "has no weights, and nothing could train it" in capsys.readouterr().err
    place = words.index("--teacher.outputs")
    unknown = words[:place] + words[place + 2 :]
    assert main(["distill", *unknown, "--methods", "ce:0+kd", "--out", str(tmp_path / "b"), "--quiet"]) == 1
    assert "say it, e.g. --teacher.outputs 10" in capsys.readouterr().err


def test_outputs_of_a_network_of_timm_are_known():
    pytest.importorskip("timm")
    assert answered(potstill.Network("timm:resnet18", pretrained=True)) == 1000
    assert answered(potstill.Network("timm:resnet18", pretrained=True, label_map=(3, 5))) == 2


def test_outputs_of_a_folder_of_transformers_are_known(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.ViTConfig(num_labels=7, image_size=8, patch_size=4).save_pretrained(tmp_path)
    assert answered(potstill.Network(f"transformers:{tmp_path}")) == 7


def test_what_is_written_instead_has_no_labels():
    assert without_labels(parse("gentle=ce:0.5+kd:2")) == "ce:0+kd:2"
    assert without_labels(parse("icd~shuffled")) == "ce:0+icd:1~shuffled"
    for name, kind in OBJECTIVES.items():
        if kind.part_of is None and (other := without_labels(parse(name))) is not None:
            assert "label" not in [need for term in parse(other).terms for need in term.kind.needs]


def test_which_methods_teach_no_classifier():
    assert not untaught_answers([parse(text) for text in ("student", "ce:0+kd", "fitnet", "ce:0+simkd")])
    assert len(untaught_answers([parse(text) for text in ("ce:0+fitnet", "ce:0+crd", "ce:0+sp+rkd")])) == 3


class Inputs(Dataset):
    """Inputs alone, as a tensor or in a mapping."""

    def __init__(self, x, named):
        self.x, self.named = x, named

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"input": self.x[index]} if self.named else self.x[index]


def pair(taught):
    teacher = PlainCNN()
    teacher.load_state_dict(taught)
    torch.manual_seed(1)
    return teacher, PlainCNN(width=6)


FORMS = {
    "tensor": lambda x: x,
    "data set": lambda x: Inputs(x, False),
    "mappings": lambda x: Inputs(x, True),
    "loader": lambda x: DataLoader(Inputs(x, False), 20, shuffle=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_alone_in_every_form(taught, form, tmp_path):
    (x, _), (held, _) = bars(60), bars(30, seed=1)
    teacher, student = pair(taught)
    options = {"epochs": 3, "batch_size": 20, "precision": "float32", "out": tmp_path / "out", "quiet": True}
    student = potstill.distill(teacher, student, FORMS[form](x), valid=FORMS[form](held), method="ce:0+kd", **options)
    with torch.no_grad():
        same = sum(int(a.argmax() == b.argmax()) for a, b in zip(student(held), teacher(held), strict=True))
    summary = read_summary(tmp_path / "out")
    assert summary["measure"] == "agreement"
    assert summary["rows"][0]["agreement"] == pytest.approx([100 * same / 30])
    assert (tmp_path / "out" / "report.html").exists()


def test_a_tensor_learns_the_same_as_with_labels_that_nobody_reads(taught):
    x, y = bars(60)
    found = []
    for data in (x, (x, y)):
        teacher, student = pair(taught)
        options = {"method": "ce:0+icd+kd", "epochs": 2, "batch_size": 20, "precision": "float32", "quiet": True}
        found.append(potstill.distill(teacher, student, data, **options).state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_cache_of_inputs_alone(taught, tmp_path):
    x, _ = bars(40)
    found = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        teacher, student = pair(taught)
        options = {"method": "ce:0+kd", "epochs": 2, "batch_size": 20, "precision": "float32", "quiet": True}
        found.append(potstill.distill(teacher, student, x, cache=cache, **options).state_dict())
    assert all(torch.equal(found[1][name], found[2][name]) for name in found[0])
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_labels_of_the_validation_data_count(taught, tmp_path):
    """Learning needs none, and where they are there to judge by, accuracy is what it was."""
    teacher, student = pair(taught)
    options = {"method": "ce:0+kd", "epochs": 2, "batch_size": 20, "precision": "float32", "quiet": True}
    potstill.distill(teacher, student, bars(60)[0], valid=bars(30, seed=1), out=tmp_path / "out", **options)
    summary = read_summary(tmp_path / "out")
    assert "measure" not in summary
    assert 0 <= summary["rows"][0]["top1_mean"] <= 100


def test_python_refuses_and_warns_as_the_shell_does(taught, capsys):
    x, _ = bars(64)
    teacher, student = pair(taught)
    with pytest.raises(ValueError, match=r"'kd': its term 'ce' needs labels, and the data has none; write 'ce:0.kd"):
        potstill.distill(teacher, student, x, method="kd", quiet=True)
    features = [Term(FitNet, "last_map", "last_map")]
    before = student.head.weight.clone()
    potstill.distill(teacher, student, x, method=features, epochs=1, batch_size=20, precision="float32")
    said = capsys.readouterr().err
    assert "no loss reaches the student's answer" in said
    assert "nothing is evaluated" in said
    assert "%" not in said
    decay = student.head.weight / before
    assert torch.allclose(decay, decay.mean().expand_as(decay), atol=1e-4)  # nothing but weight decay moved it
