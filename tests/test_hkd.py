"""HKD: its weights over epochs, whom it listens to, the optimizer's moments, and a killed run."""

import pytest
import torch

from potstill.assistants import check_assistants
from potstill.catalogue import recipe
from potstill.cell import assemble
from potstill.data import Data, Preprocess, Resident, batches, load
from potstill.examples import Examples, source
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.models import small_cnn
from potstill.precision import Precision
from potstill.recipe import Assistant, Fit, Network
from potstill.types import DataInfo, Progress

FIT = Fit(epochs=3, batch_size=20, optimizer="adamw", lr=0.01, weight_decay=0.0, checkpoint_steps=2)
STEPS = 5


def drawn(seed, width):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return small_cnn(10, width=width)


def engine(method="hkd", folder=None, on_step=None, assistants=("first", "second"), fit=FIT):
    """A student, a teacher and two assistants, all of them random."""
    data, _ = load(Data(train_rows=STEPS * FIT.batch_size))
    probe = next(iter(batches(data, 8)))
    loader = Resident(data, fit.batch_size, seed=0)
    examples = Examples(loader, DataInfo(len(data), fit.batch_size, 10), probe)
    own = Preprocess.of(data)
    speak = {name: source(drawn(seed, 6), probe, trained=False, preprocess=own, precision=Precision())
             for seed, name in enumerate(("teacher", *assistants), 1)}  # fmt: skip
    teacher = speak.pop("teacher")
    return assemble(
        drawn(0, 4),
        teacher,
        parse(method),
        examples,
        fit,
        assistants=speak,
        preprocess=own,
        folder=folder,
        on_step=on_step,
    )


def weights(one):
    return torch.cat([value.flatten() for value in one.student.state_dict().values()])


def test_early_layers_matter_in_the_first_epochs():
    last, layers = parse("hkd").terms
    assert last.weight == 1
    assert [layers.weight(Progress(0, epoch, 50)) for epoch in (0, 1, 2)] == pytest.approx([100, 70, 49])
    assert layers.weight(Progress(0, 11, 50)) == pytest.approx(1.98, abs=0.01)
    assert [term.label for term in parse("hkd(initial=0)").terms] == ["info_flow_last"]
    assert [term.label for term in parse("hkd(last=0)+ce:1").terms] == ["info_flow_layers", "ce"]


def test_terms_with_and_without_labels():
    assert not parse("hkd").classifies
    assert not parse("ce:0+info_flow").classifies
    assert not parse("ce:0+icd").classifies
    for method in ("hkd+ce:1", "hkd+kd:1", "student", "kd", "simkd", "ab", "dml"):
        assert parse(method).classifies, method


@pytest.mark.parametrize(
    ("method", "assistants", "expected"),
    [
        ("hkd", ("first", "second"), "second"),
        ("hkd(auxiliary='first')", ("first", "second"), "first"),
        ("hkd(auxiliary='teacher')", ("first", "second"), "teacher"),
        ("hkd", (), "teacher"),
    ],
)
def test_who_is_the_auxiliary(method, assistants, expected):
    run = engine(method, assistants=assistants)
    assert run.sources["auxiliary"] is run.sources[expected]
    run.start()
    run.train_on(next(iter(run.loader.epoch(0))))
    asked = {name for name, _ in run.system.wanted}
    assert asked == {"student", "auxiliary"}


def test_adam_starts_anew_in_every_epoch():
    """By hand: a new Adam for each epoch. The step count shows in its bias correction."""
    run = engine(on_step=lambda progress: seen.append(steps_of(run)))

    def steps_of(run):
        return {int(state["step"]) for state in run.optimizer.state.values()}

    seen = []
    run.run()
    assert seen == [{n} for n in (1, 2, 3, 4, 5)] * 3
    seen = []
    run = engine("hkd(fresh_moments=False)", on_step=lambda progress: seen.append(steps_of(run)))
    run.run()
    assert seen == [{n} for n in range(1, 16)]


@pytest.mark.parametrize("step", [5, 7, 10])
def test_a_killed_run_comes_to_the_same_bits(step, tmp_path):
    """At the end of an epoch, where moments are about to be dropped; within one; after the last save of one."""

    def die(progress):
        if progress.step == step:
            raise Interrupted

    whole = engine()
    whole.run()
    with pytest.raises(Interrupted):
        engine(folder=tmp_path, on_step=die).run()
    again = engine(folder=tmp_path)
    again.run(resume=True)
    assert torch.equal(weights(again), weights(whole))
    assert again.history == whole.history


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hkd(kernel='cosin')", "unknown kernel 'cosin'; known: cosine, student_t"),
        ("hkd(divergence='js')", "unknown divergence 'js'; known: jeffreys"),
        ("hkd(decay=1.5)", r"expected 0 or more, and \(0, 1\]"),
        ("hkd(initial=-1)", "expected 0 or more"),
        ("hkd(last=-1)", "must not be negative"),
        ("hkd(last=0,initial=0)", "nothing to learn from"),
        ("hkd:2", "each with a weight of its own"),
    ],
)
def test_what_is_wrong_with_options_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_an_unknown_auxiliary_is_named():
    with pytest.raises(ValueError, match=r"no assistant 'secnd'; did you mean 'second'"):
        engine("hkd(auxiliary='secnd')")


@pytest.mark.parametrize(
    ("start", "network", "says"),
    [
        ("by_label", Network("cnn1_a"), "did you mean 'by_labels'"),
        ("by_labels", Network("cnn1"), r"is a cnn1 and cannot start from 'by_labels', which is another network"),
        ("by_labels", Network("cnn1_a", checkpoint="x.pth"), "weights of its own"),
    ],
)
def test_what_an_assistant_may_start_from(start, network, says):
    first = Assistant("by_labels", Network("cnn1_a"), "student")
    with pytest.raises(ValueError, match=says):
        check_assistants((first, Assistant("auxiliary", network, "ce:0+info_flow", start=start)))


@pytest.mark.parametrize("name", ["hkd_cifar10", "hkd_cifar100"])
def test_the_published_pipeline(name):
    """Sizes and schedules of the authors' code."""
    found, _ = recipe(name, smoke=False)
    assert (found.teacher.name, found.student.name) == ("preact_resnet18_cifar", "cnn1")
    by_labels, auxiliary = found.assistants
    assert (auxiliary.start, auxiliary.teacher, by_labels.method) == ("by_labels", "teacher", "student")
    check_assistants(found.assistants)
    fits = (found.teacher_fit, by_labels.fit, auxiliary.fit, found.fit)
    assert [fit.epochs for fit in fits] == [80, 80, 40, 50]
    assert {(fit.batch_size, fit.lr, fit.weight_decay, fit.drop_last) for fit in fits} == {(128, 1e-3, 0.0, False)}
    rates = [[fit.lr * fit.learning_rate()(Progress(epoch, epoch, fit.epochs)) for epoch in (0, 29, 30, 49)]
             for fit in (auxiliary.fit, found.fit)]  # fmt: skip
    assert rates[0] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert rates[1] == pytest.approx([1e-3] * 4)
    assert [parse(method).needs_teacher for method in found.methods[:2]] == [False, True]


def test_the_recipe_runs_at_its_smoke_size(shared, tmp_path, monkeypatch):
    from potstill.cli import main

    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    words = [
        "--smoke",
        "--methods",
        "hkd",
        "--data.root",
        str(shared("data", "cifar100")),
        "--data.train-rows",
        "256",
        "--quiet",
    ]
    out = tmp_path / "out"
    assert main(["distill", "hkd_cifar100", *words, "--precision", "float32", "--out", str(out)]) == 0
    assert (out / "auxiliary" / "student.safetensors").is_file()
    assert (out / "hkd" / "seed0" / "student.safetensors").is_file()
