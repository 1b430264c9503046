"""`potstill.distill` with two networks that it has never seen."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from networks import PlainCNN, TinyViT, bars, same, state_of
from torch.utils.data import DataLoader, Dataset, TensorDataset

import potstill
from potstill import Fit, Interrupted, Objective, Preprocess, Term
from potstill.engine import Engine
from potstill.objectives import OBJECTIVES

FAST = Fit(epochs=1, batch_size=24, lr=0.02, schedule="constant")
QUIET = {"quiet": True, "precision": "float32"}
CrossEntropy, FitNet, KD = OBJECTIVES["ce"], OBJECTIVES["fitnet"], OBJECTIVES["kd"]


def accuracy(network, pair):
    network.eval()
    with torch.no_grad():
        return (network(pair[0]).argmax(1) == pair[1]).double().mean().item()


def refuses(*words, teacher, student, data=None, **options):
    """A clear error before the first step, and both networks as they were."""
    before = state_of(teacher), state_of(student), teacher.training, student.training
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked below)
        potstill.distill(teacher, student, bars(48) if data is None else data, **({"fit": FAST} | QUIET | options))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert same(before[0], state_of(teacher))
    assert same(before[1], state_of(student))
    assert (teacher.training, student.training) == before[2:]


class Items(Dataset):
    """A map-style data set that keeps its labels to itself."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return self.x[place], int(self.y[place])


class Pairs:
    """A loader of somebody's own."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def as_images(x, y):
    return (x * 255).to(torch.uint8), y


FORMS = {
    "tensors": lambda x, y: (x, y),
    "data set": Items,
    "loader": lambda x, y: DataLoader(Items(x, y), batch_size=24, shuffle=True),
    "uint8 images": as_images,
    "mappings": lambda x, y: Pairs(*({"input": a, "label": b} for a, b in zip(x.split(24), y.split(24), strict=True))),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_data(teacher, student, form):
    teacher.train(form == "loader")
    before, start = state_of(teacher), state_of(student)
    data, valid = FORMS[form](*bars(72)), FORMS[form](*bars(24, seed=5))
    learned = potstill.distill(teacher, student, data, valid=valid, fit=FAST, **QUIET)
    assert learned is student
    assert not learned.training
    assert not same(start, state_of(learned))
    assert same(before, state_of(teacher))
    assert teacher.training == (form == "loader")
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not learned.head._forward_hooks
    assert not teacher.head._forward_pre_hooks


def test_a_vit_learns_from_a_cnn(teacher, student):
    train, held = bars(120), bars(60, seed=5)
    fit = Fit(epochs=12, batch_size=24, lr=3e-3, optimizer="adamw", schedule="constant")
    learned = potstill.distill(teacher, student, train, valid=held, fit=fit, **QUIET)
    assert accuracy(learned, held) > 0.6


def test_a_cnn_learns_from_a_vit():
    torch.manual_seed(0)
    guide, train, held = TinyViT(), bars(120), bars(60, seed=5)
    guide.train()
    before = state_of(guide)
    learned = potstill.distill(guide, PlainCNN(), train, valid=held, fit=Fit(epochs=3, batch_size=24, lr=0.05), **QUIET)
    assert accuracy(learned, held) > 0.6
    assert same(before, state_of(guide))
    assert guide.layer.training


def test_taps_by_module_path(teacher):
    # a hint that reaches the student's first layer only, and one at the head's input; no label is used
    for tap, reached in (("conv", ["conv.weight"]), ("head.input", ["conv.weight", "norm.weight"])):
        torch.manual_seed(2)
        learner = PlainCNN(width=6)
        before = state_of(learner)
        terms = [Term(FitNet, tap, tap)] if tap == "conv" else [Term(OBJECTIVES["icd"], tap, f"teacher:{tap}")]
        potstill.distill(teacher, learner, bars(48), method=terms, fit=replace(FAST, weight_decay=0.0), **QUIET)
        moved = [
            name for name, _ in learner.named_parameters() if not torch.equal(before[name], state_of(learner)[name])
        ]
        assert set(reached) <= set(moved)
        assert "head.weight" not in moved
        assert ("norm.weight" in moved) == (tap == "head.input")


def test_an_embedding_is_found_and_used(teacher, student):
    potstill.distill(teacher, student, bars(48), method="icd", fit=FAST, **QUIET)
    one = potstill.distill(teacher, TinyViT(), bars(48), method=[Term(OBJECTIVES["icd"])], fit=FAST, **QUIET)
    assert one(bars(3)[0]).shape == (3, 3)


def test_a_run_folder(teacher, student, tmp_path, capsys):
    data, held = bars(72), bars(24, seed=5)
    learned = potstill.distill(teacher, student, data, valid=held, fit=FAST, precision="float32", out=tmp_path / "run")
    said = capsys.readouterr()
    assert not said.out
    assert "ce:1+icd:1+kd:1" in said.err
    for name in ("recipe.json", "metrics.jsonl", "timings.jsonl", "summary.json", "report.html", "student.json"):
        assert (tmp_path / "run" / name).exists(), name
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rows"][0]["top1_mean"] == pytest.approx(100 * accuracy(learned, held))
    assert summary["teacher"]["top1"] == pytest.approx(100 * accuracy(teacher, held))
    with pytest.raises(ValueError, match=r"networks.TinyViT, which is not of the zoo.*model="):
        potstill.load(tmp_path / "run")
    again = potstill.load(tmp_path / "run", model=TinyViT())
    assert again.predict(held[0]) == [str(k) for k in learned(held[0]).argmax(1).tolist()]
    with pytest.raises(ValueError, match="holds another run"):
        potstill.distill(teacher, student, data, fit=FAST, out=tmp_path / "run", **QUIET)


def test_interrupted_and_resumed(teacher, tmp_path, monkeypatch):
    data, fit = bars(72), Fit(epochs=3, batch_size=24, lr=0.02)

    def learn(out, resume=False):
        torch.manual_seed(3)
        options = {"valid": bars(24, seed=5), "fit": fit, "out": tmp_path / out, "resume": resume}
        return potstill.distill(teacher, TinyViT(), data, **options, **QUIET)

    whole, real, taken = learn("whole"), Engine.train_on, []

    def train_on(self, batch):
        real(self, batch)
        taken.append(1)
        if (
            len(taken) == 5
        ):  # inside the second epoch, of which nothing is kept: the data's own transforms may be random
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_on", train_on)
        with pytest.raises(Interrupted):
            learn("cut")
    with pytest.raises(ValueError, match="epochs"):
        potstill.distill(teacher, TinyViT(), data, fit=FAST, out=tmp_path / "cut", resume=True, **QUIET)
    assert same(state_of(whole), state_of(learn("cut", resume=True)))
    rows = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("whole", "cut")]
    assert rows[0] == rows[1]


def test_measured_precision_is_kept_on_resume(teacher, student, tmp_path, monkeypatch):
    from potstill.precision import Choice, Precision

    options = {"fit": FAST, "out": tmp_path / "run", "quiet": True}
    times = {"float32": 2.0, "float32-channels-last": 1.0}
    monkeypatch.setattr("potstill.cell.choose", lambda *_: Choice(Precision(channels_last=True), times))
    potstill.distill(teacher, student, bars(48), **options)
    assert json.loads((tmp_path / "run/precision.json").read_text())["choice"] == "float32-channels-last"
    monkeypatch.delattr("potstill.cell.choose")
    potstill.distill(teacher, student, bars(48), resume=True, **options)


def test_settings_without_effect_are_named(teacher, student, capsys):
    loader = DataLoader(TensorDataset(*bars(48)), batch_size=24)
    potstill.distill(teacher, student, loader, epochs=1, batch_size=16, precision="float32")
    assert "batch_size=16 has no effect: the data comes in batches of 24" in capsys.readouterr().err
    fit = Fit(epochs=1, batch_size=24, warmup=0.2)
    potstill.distill(teacher, student, loader, fit=fit, epochs=7, precision="float32")
    said = capsys.readouterr().err
    assert "fit.warmup=0.2 has no effect" in said
    assert "epochs and batch_size have no effect" in said


def test_networks_that_do_not_fit(teacher, student):
    refuses("the same module", teacher=teacher, student=teacher)
    refuses("3 classes and the student with 4", teacher=teacher, student=TinyViT(classes=4))
    shared = TinyViT()
    shared.guest = teacher
    refuses("share parameters", teacher=teacher, student=shared)
    refuses("PlainCNN cannot run", "[24, 1, 12, 12]", teacher=PlainCNN(channels=3), student=student)
    with pytest.raises(ValueError, match=r"must be a torch.nn.Module, got str"):
        potstill.distill("resnet20", student, bars(24))
    with pytest.raises(ValueError, match="device 'tpu9' cannot be used"):
        potstill.distill(teacher, student, bars(24), device="tpu9")

    class Wordy(TinyViT):
        def forward(self, x):
            return {"logits": super().forward(x)}

    refuses("answers with a dict", teacher=teacher, student=Wordy())


def test_a_teacher_that_returns_nan(teacher, student, tmp_path):
    teacher.norm.running_var[0] = -1.0
    refuses("teacher returns NaN", teacher=teacher, student=student, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_returns_nan_for_one_image(teacher, student, tmp_path):
    held, labels = bars(24, seed=5)
    held[17] = float("inf")
    refuses("NaN", "validation", teacher=teacher, student=student, valid=(held, labels), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
def test_labels_out_of_range(teacher, student, form, tmp_path):
    x, y = bars(48)
    wrong = y.clone()
    wrong[0] = 7
    out = tmp_path / "out"
    if form in ("tensors", "uint8 images"):
        data = FORMS[form](x, wrong)
        refuses("label 7", "sample 0", "[0, 2]", teacher=teacher, student=student, data=data, out=out)
    held = FORMS[form](x, wrong)
    refuses("label 7", "[0, 2]", teacher=teacher, student=student, data=FORMS[form](x, y), valid=held, out=out)
    assert not out.exists()


def test_a_late_label_out_of_range_is_named(teacher, student):
    x, y = bars(48)
    y[40] = -1
    loader = DataLoader(Items(x, y), batch_size=24)
    with pytest.raises(ValueError, match=r"label -1 \(sample 40\) is out of range"):
        potstill.distill(teacher, student, loader, fit=FAST, **QUIET)
    # where all labels lie in plain sight, nothing is trained first
    plain = DataLoader(TensorDataset(x, y), batch_size=24)
    refuses("label -1 (sample 40)", teacher=teacher, student=student, data=plain)


def test_methods_that_cannot_be(teacher, student, tmp_path):
    def no(*words, **options):
        refuses(*words, teacher=teacher, student=student, out=tmp_path / "out", **options)

    no("unknown objective 'icdd'", "did you mean 'icd'", method="icdd")
    no("icd has no option 'alfa'", "did you mean 'alpha'", method="icd(alfa=1)")
    no("weight 'much'", method="icd:much")
    no("unknown control 'shuffle'", "did you mean 'shuffled'", method="icd~shuffle")
    no("list of potstill.Term", method=[])
    no("list of potstill.Term", method=["icd"])
    no("'haed'", "did you mean 'head'", method=[Term(FitNet, "haed", "conv")])
    no("'unused'", "did not run", method=[Term(FitNet, "patches", "unused")])
    no("no 'stage7'", "name a module path", "conv", method=[Term(FitNet, "patches", "stage7")])
    no("no source 'tutor'", method=[Term(KD, teacher="tutor:output")])
    no("is not trained", method=[Term(KD, student="teacher:output")])
    no("batch of 1", method="icd", fit=Fit(epochs=1, batch_size=1))
    assert not (tmp_path / "out").exists()


class Remembering(Objective):
    """Keeps something for each sample."""

    needs = ("index",)

    @classmethod
    def sized(cls, student, teacher, data, modules):
        network = cls()
        network.register_buffer("bank", torch.zeros(data.samples))
        return network

    def forward(self, student, teacher, *, index):
        return (student - teacher).square().mean(1) + self.bank[index]


def test_an_objective_that_needs_the_index(teacher, student):
    x, y = bars(48)
    terms = [Term(CrossEntropy), Term(Remembering)]
    no_index = DataLoader(TensorDataset(x, y), batch_size=24)
    refuses("needs its index", "(input, label, index)", teacher=teacher, student=student, data=no_index, method=terms)
    with_index = DataLoader(TensorDataset(x, y, torch.arange(48)), batch_size=24)
    for data in (with_index, TensorDataset(x, y), (x, y)):
        potstill.distill(teacher, student, data, method=terms, fit=FAST, **QUIET)


def test_data_that_is_none(teacher, student):
    x, y = bars(48)

    def no(*words, data, **options):
        refuses(*words, teacher=teacher, student=student, data=data, **options)

    no("48 inputs but 5 labels", data=(x, y[:5]))
    no("fewer than one batch of 64", data=(x, y), fit=Fit(epochs=1))
    no("has no length", data=iter([(x, y)]))
    no("is empty", data=Pairs())
    no("'ce' needs labels", "write 'ce:0+icd:1+kd:1'", data=Pairs(x))
    no("list of 4", data=Pairs([x, y, y, y]))
    no("keys 'image', 'label'", data=Pairs({"image": x, "label": y}))
    no("dtype torch.float32", "class number", data=Pairs((x, y.float())))
    no("shape [48, 3]", data=Pairs((x, torch.eye(3)[y].long())))
    no("validation data is empty", data=(x, y), valid=Pairs())
    no("a str", data="photos")


def test_wrong_normalisation_of_the_teacher(teacher, student, capsys):
    wrong = Preprocess(mean=(200.0,), std=(0.001,))
    x, y = as_images(*bars(48))
    potstill.distill(teacher, student, (x, y), valid=(x, y), fit=FAST, precision="float32", teacher_preprocess=wrong)
    said = capsys.readouterr().err
    assert "near chance" in said
    assert "With the normalisation 'unit [0, 1]' it reaches" in said
