"""Methods that are more than terms: AB, FT and FSP train in two stages, SimKD's student is another network."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import bars, same, state_of
from torch import nn

import potstill
from potstill import Fit, Term, checkpoint
from potstill.cell import train_stages
from potstill.data import Preprocess
from potstill.engine import Engine
from potstill.examples import source
from potstill.methods import Method, parse
from potstill.objectives import AB, FT, ICD, CrossEntropy, SimKD
from potstill.objectives.simkd import Reused
from potstill.stages import Stage, stages_of


class Net(nn.Module):
    """Two convolutions, an average, a classifier."""

    def __init__(self, width=6, seed=0, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width))
        self.first = nn.ReLU()
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, 2, padding=1), nn.BatchNorm2d(width))
        self.second = nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(width, classes)

    taps = {  # noqa: RUF012
        "stem": "stem",
        "stage1": "first",
        "stage2": "second",
        "stage1.pre": "stem",
        "stage2.pre": "deep",
        "last_map": "second",
    }

    def forward(self, x):
        return self.head(self.pool(self.second(self.deep(self.first(self.stem(x))))).flatten(1))


FIT = Fit(epochs=8, batch_size=20, lr=0.02, checkpoint_steps=1)


def distilled(folder, method, teacher=None, student=None, fit=FIT, **kw):
    teacher, student = teacher or Net(12, 1), student or Net()
    options = {"valid": bars(30, 1), "fit": fit, "precision": "float32", "quiet": True, "out": folder, **kw}
    return potstill.distill(teacher, student, bars(60), method=method, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def taught(seed=1, width=12):
    teacher = Net(width, seed)
    fit = Fit(epochs=12, batch_size=20, lr=0.05)
    potstill.distill(Net(4, 3), teacher, bars(90, 5), method="ce", fit=fit, precision="float32", quiet=True)
    return teacher


@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_features_first_then_labels(tmp_path, method):
    student = distilled(tmp_path / "run", method, teacher=Net(6, 1) if method == "fsp" else None)
    first, main = rows(tmp_path / "run" / method), rows(tmp_path / "run")
    assert [set(row["terms"]) for row in first] == [{method}], "one epoch of eight, and only its own loss"
    assert first[0]["lr"] == 0.02
    assert [set(row["terms"]) for row in main] == [{"ce"}] * 8
    assert "top1" not in first[0]
    assert main[-1]["terms"]["ce"] < main[0]["terms"]["ce"] - 0.05
    assert not student.training


def test_the_first_stage_leaves_the_classifier_alone_and_moves_the_features(tmp_path):
    student, seen = Net(), []

    def begin(label, steps):
        seen.append((label, steps, state_of(student)))
        return lambda progress: None

    stages(student, "ab", begin=begin)
    (first, steps, before), (main, more, after) = seen
    assert (first, steps, main, more) == ("mine (ab)", 3, "mine", 24)
    heads = [name for name in before if name.startswith("head")]
    assert all(torch.equal(before[name], after[name]) for name in heads)
    assert not torch.equal(before["deep.0.weight"], after["deep.0.weight"])


def test_ft_learns_its_paraphraser_first_and_hands_it_over(tmp_path):
    student, seen = Net(), []

    def begin(label, steps):
        seen.append(state_of(student))
        return lambda progress: None

    engine, _ = stages(student, "ft(rate=0.25)+kd", begin=begin, folder=tmp_path)
    assert same(*seen), "the student is not touched in the paraphraser's stage"
    learnt = checkpoint.read(tmp_path / "ft_paraphraser")["system"]
    terms = {term.name: term for term in engine.system.wired}
    assert set(terms) == {"ce", "ft", "kd"}
    for name, value in terms["ft"].objective.paraphraser.state_dict().items():
        assert torch.equal(value, learnt[f"terms.0.objective.encoder.{name}"])
        assert value.shape[0] == 3 or "0." in name, "a quarter of the teacher's twelve channels"
    assert rows(tmp_path / "ft_paraphraser")[0]["lr"] == 0.01


def stages(
    student, method, *, begin=lambda label, steps: lambda progress: None, folder=None, resume=False, teacher=None
):
    """`train_stages` on the bars, with what distill() would give it."""
    from potstill.forms import examples_of
    from potstill.precision import Precision

    examples = examples_of(bars(60), FIT, torch.device("cpu"), 0)
    guide = source(teacher or Net(12, 1), examples.probe, trained=False, preprocess=None, precision=Precision())
    method = method if isinstance(method, Method) else parse(method)
    options = {"begin": begin, "label": "mine", "folder": folder, "resume": resume}
    return train_stages(student, guide, method, lambda _: examples, FIT, **options)


@pytest.mark.parametrize("killed", [1, 3, 20])
@pytest.mark.parametrize("method", ["ab", "ft"])
def test_killed_in_either_stage_it_goes_on_with_the_same_bits(tmp_path, monkeypatch, method, killed):
    whole = Net()
    stages(whole, method, folder=tmp_path / "whole")
    count, real = [0], Engine.train_on

    def dying(self, batch):
        real(self, batch)
        count[0] += 1
        if count[0] == killed:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_on", dying)
        with pytest.raises(KeyboardInterrupt):
            stages(Net(), method, folder=tmp_path / "again")
    again = Net()
    stages(again, method, folder=tmp_path / "again", resume=True)
    assert same(state_of(whole), state_of(again))
    assert rows(tmp_path / "whole") == rows(tmp_path / "again")


def test_what_stages_come_to():
    method = parse("ab:2+ft+kd")
    assert [stage.name for stage in method.stages] == ["ab", "ft_paraphraser", ""]
    assert [term.label for term in method.terms] == ["ce", "ft", "kd"]
    assert method.stages[0].terms[0].weight == 2
    assert method.plan == (
        "ab:2 alone for 1/8 of the epochs, then ft_paraphraser:1 alone for 1/8 of the epochs, then ce:1+ft:200+kd:1"
    )
    assert parse("ab~shuffled").needs_teacher
    assert Stage("ab", (), share=1 / 8).fit(Fit(epochs=240)).epochs == 30
    assert Stage("ab", (), share=1 / 8).fit(Fit(epochs=2)).epochs == 1
    assert stages_of([Term(FT(3, 3))])[0].name == "", "a ready objective brings its paraphraser"
    with pytest.raises(ValueError, match=r"ab only prepares the student.*Term\(CrossEntropy\)"):
        stages_of([Term(AB)])
    with pytest.raises(ValueError, match="two stages of one method are called 'ab'"):
        stages_of([Term(AB), Term(AB), Term(CrossEntropy)])


def test_what_is_handed_over_must_exist_and_fit():
    def handing(init):
        first = Stage("ft_paraphraser", parse("ft").stages[0].terms)
        last = Stage("", (Term(CrossEntropy), Term(FT, init=init)))
        return Method("mine", (first, last), "mine")

    with pytest.raises(ValueError, match=r"no earlier stage has learnt 'ft_para.encoder'; did you mean 'ft_para"):
        stages(Net(), handing((("paraphraser", "ft_para.encoder"),)))
    with pytest.raises(ValueError, match=r"'ft_paraphraser.decoder' does not fit 'paraphraser'"):
        stages(Net(), handing((("paraphraser", "ft_paraphraser.decoder"),)))
    with pytest.raises(ValueError, match=r"does not fit 'paraphrase'"):
        stages(Net(), handing((("paraphrase", "ft_paraphraser.encoder"),)))


def test_simkd_answers_with_the_teachers_classifier(tmp_path):
    teacher, student = taught(), Net(4)
    untouched = state_of(teacher)
    adapted = distilled(
        tmp_path / "run", "simkd(factor=3)", teacher, student, fit=Fit(epochs=20, batch_size=20, lr=0.1)
    )
    assert isinstance(adapted, Reused)
    assert adapted.body is student
    assert same(untouched, state_of(teacher))
    assert torch.equal(adapted.classifier.weight, teacher.head.weight)
    last = rows(tmp_path / "run")[-1]
    assert set(last["terms"]) == {"simkd"}
    assert last["top1"] > 80
    x, _ = bars(9, 4)
    predictor = potstill.load(tmp_path / "run", model=Net(4, seed=8))
    with torch.no_grad():
        torch.testing.assert_close(predictor(x), adapted(x))
    adapted.requires_grad_(False)
    agrees = (adapted(bars(90, 7)[0]).argmax(1) == teacher(bars(90, 7)[0]).argmax(1)).float().mean()
    assert agrees > 0.8


def test_simkd_composes_and_reaches_the_student_of_a_recipe(shell, good, tmp_path):
    words = ["distill", "small.py", "--method", "student", "simkd+kd", "ab", "--precision", "float32", "--quiet"]
    status, _, err = shell(*words, "--teacher.checkpoint", good / "teacher" / "student.safetensors", "--out", "run")
    assert status == 0, err
    cells = {name: tmp_path / "run" / name / "seed0" for name in ("simkd+kd", "ab")}
    assert (cells["ab"] / "ab" / "metrics.jsonl").exists()
    predictor = potstill.load(cells["simkd+kd"])
    assert isinstance(predictor.model, Reused)
    assert predictor(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).shape == (1, 10)
    assert not isinstance(potstill.load(cells["ab"]).model, Reused)


def test_simkd_and_label_maps(tmp_path):
    """Both networks may name their classes otherwise; the student that comes back names them as the data does."""
    teacher = taught()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():  # the teacher's answers, in another order
        teacher.head.weight.copy_(teacher.head.weight[order].clone())
        teacher.head.bias.copy_(teacher.head.bias[order].clone())
    maps = {"teacher_preprocess": Preprocess(label_map=(1, 2, 0))}
    maps["student_preprocess"] = Preprocess(label_map=(2, 0, 1))
    fit = Fit(epochs=20, batch_size=20, lr=0.1)
    adapted = distilled(tmp_path / "run", "simkd", teacher, Net(4), fit=fit, **maps)
    assert rows(tmp_path / "run")[-1]["top1"] > 80
    x, y = bars(30, 3)
    assert (adapted(x).argmax(1) == y).float().mean() > 0.8
    predictor = potstill.load(tmp_path / "run", model=Net(4))
    torch.testing.assert_close(predictor(x), adapted(x))
    torch.testing.assert_close(potstill.load(tmp_path / "run", model=adapted)(x), adapted(x))


def test_simkd_students_are_served_by_threads():
    adapted = distilled(None, "simkd", fit=Fit(epochs=1, batch_size=20)).eval()
    xs = [bars(12, seed)[0] for seed in range(24)]
    with torch.no_grad():
        expected = [adapted(x) for x in xs]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda x: predict(adapted, x), xs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def predict(model, x):
    return model(x)


class Cosine(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


class Flat(Net):
    """Its classifier reads no average."""

    def forward(self, x):
        return self.head(self.second(self.deep(self.first(self.stem(x))))[:, :, 2, 3])


def test_simkd_says_when_it_cannot_work(tmp_path):
    with pytest.raises(
        ValueError, match=r"simkd: .* read the average of a feature map; Flat has no such classifier.*srrl and icd"
    ):
        distilled(None, "simkd", teacher=Flat(12, 1))
    other = Net(12, 1)
    other.head = Cosine(12, 3)
    with pytest.raises(ValueError, match=r"must be an nn.Linear .* Net has no such classifier"):
        distilled(None, "simkd", teacher=other)
    once = distilled(None, "simkd", fit=Fit(epochs=1, batch_size=20))
    with pytest.raises(ValueError, match=r"ends in a reused classifier already; give the network in it, its \.body"):
        distilled(None, "simkd", student=once)
    with pytest.raises(ValueError, match="simkd and simkd each make another network"):
        distilled(None, [Term(CrossEntropy), Term(SimKD, name="simkd"), Term(SimKD, name="simkd")])
    with pytest.raises(ValueError, match="give the class or a Spec"):
        distilled(None, [Term(CrossEntropy), Term(SimKD(factor=4))])
    with pytest.raises(ValueError, match=r"factor must lie between 1 and the teacher's 12, got 40"):
        distilled(None, "simkd(factor=40)")
    with pytest.raises(ValueError, match="'projected'"):
        stages(Net(), Method("mine", (Stage("", (Term(SimKD),)),), "mine"))
    assert not parse("icd").adapting
    assert parse("simkd").adapting
    assert not Method.of("mine", [Term(ICD)]).adapting
