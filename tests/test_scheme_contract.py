"""Every scheme through the same checks, on real digits: it trains, goes on after a kill, and needs its true teacher."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from potstill.cell import assemble
from potstill.data import Data, Preprocess, Resident, batches, first, load
from potstill.examples import Examples, source
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.models import build
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.schemes import SCHEMES
from potstill.types import DataInfo

CASES = {
    "black_box": "black_box(of=dist)",
    "bss": "bss(size=8,start=0)",
    "ces_kd": "ces_kd(select=static)",
    "ckd": "ckd(group=3,inter=vid,kd=0.1)",
    "cutmix_kd": "cutmix_kd",
    "dgkd": "dgkd",
    "dml": "dml",
    "dual": "dual+icd(width=8)",
    "ema": "ema(decay=0.5)+kd",
    "hkd": "hkd",
    "mixup_kd": "mixup_kd",
    "okd": "okd(rank=2,rate=0.1,mu=0.5)",
    "one": "one",
    "r2kd": "r2kd(augment=cutmixpick,rank=soft)",
    "takd": "takd",
    "teachers": "teachers(of=teacher/second,weights=2/1)+kd",
}
"""A method string for each scheme."""
TEXT_SCHEMES = {
    "distilbert": "tests/language/test_encoder_methods.py",
    "minilm": "tests/language/test_encoder_methods.py",
    "tinybert": "tests/language/test_encoder_methods.py",
    "mixkd": "tests/language/test_mixkd.py",
    **dict.fromkeys(
        ("distillm", "gkd", "imitkd", "minillm", "on_policy", "seqkd", "skd"), "tests/language/test_text_schemes.py"
    ),
}
"""Schemes that need texts, and where they are put through such checks."""
FIT = Fit(epochs=3, batch_size=25, lr=0.1, schedule="constant", checkpoint_steps=1)
STOPS = 5  # of twelve steps: in the second epoch


@pytest.fixture(scope="module")
def digits():
    """Both splits, and the weights of a teacher that knows a little."""
    train, valid = load(Data(train_rows=100, valid_rows=100), quiet=True)
    learner = engine("student", (train, valid, {}), fit=replace(FIT, epochs=15), own=network(1, 12))
    learner.run()
    return train, valid, learner.student.state_dict()


def network(seed, width):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build("small_cnn", num_classes=10, in_channels=1, width=width)


def engine(text, digits, folder=None, on_step=None, fit=FIT, own=None):
    train, valid, known = digits
    loader = Resident(train, FIT.batch_size, augment="crop", seed=3)
    info = DataInfo(len(train), FIT.batch_size, 10, train.labels)
    examples = Examples(loader, info, first(train, 20), lambda: batches(valid, 50), lambda: batches(train, 50))
    normal, method = Preprocess.of(train), parse(text)
    assistant, teacher = network(2, 12), network(1, 12)

    def frozen(module):
        return source(module, examples.probe, trained=False, preprocess=normal, precision=Precision())

    if method.needs_teacher:
        teacher.load_state_dict(known)
    return assemble(
        own or network(0, 8),
        frozen(teacher) if method.needs_teacher else None,
        method,
        examples,
        fit,
        assistants={"second": frozen(assistant)},
        preprocess=normal,
        folder=folder,
        on_step=on_step,
    )


def weights(run):
    return {name: value.clone() for name, value in run.system.state_dict().items()}


def test_every_scheme_has_a_case():
    assert CASES.keys() | TEXT_SCHEMES.keys() == SCHEMES.keys()
    assert not CASES.keys() & TEXT_SCHEMES.keys()
    assert all((Path(__file__).parents[1] / place).is_file() for place in TEXT_SCHEMES.values())


@pytest.mark.parametrize("name", CASES)
def test_it_trains_and_a_killed_run_goes_on_with_the_same_bits(name, digits, tmp_path):
    whole = engine(CASES[name], digits, tmp_path / "whole")
    start = weights(whole)
    history = whole.run().history
    assert history[-1]["loss"] < history[0]["loss"]
    assert any(not torch.equal(value, start[key]) for key, value in weights(whole).items())

    def press(progress):
        if progress.step == STOPS:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        engine(CASES[name], digits, tmp_path / "parts", press).run()
    rest = engine(CASES[name], digits, tmp_path / "parts")
    rest.run(resume=True)
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(rest).items())
    metrics = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("parts", "whole")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("name", [name for name in CASES if parse(CASES[name]).needs_teacher])
def test_another_samples_teacher_is_another_teacher(name, digits):
    one, other = (engine(CASES[name] + control, digits) for control in ("", "~shuffled"))
    losses = [[row["terms"] for row in run.run().history] for run in (one, other)]
    assert losses[0] != losses[1]


def test_the_teacher_sees_another_augmentation_than_the_student(digits):
    train = digits[0]
    run, plainly = engine("dual+kd", digits), engine("dual(teacher=none)+kd", digits)
    run.begin()
    plainly.begin()
    batch = next(iter(run.loader.epoch(0)))
    (shown,) = run.prepared(batch)
    main, other = shown.views["main"], shown.views["other"]
    assert torch.equal(main.input, batch.main.input)
    assert torch.equal(other.index, main.index)
    moved = (main.input != other.input).flatten(1).any(1)
    assert 0.5 < moved.float().mean() < 1  # one of nine shifts is the same
    (plain,) = plainly.prepared(batch)
    assert torch.equal(plain.views["other"].input, train.images[main.index])
    with pytest.raises(ValueError, match="did you mean 'crop-flip'"):
        parse("dual(teacher=crop-flop)+kd")


def test_the_follower_is_the_average_of_the_student(digits):
    run = engine("ema(decay=0.75)+kd", digits)
    seen = [weights(run)["networks.student.fc.weight"]]
    run.on_step = lambda progress: seen.append(weights(run)["networks.student.fc.weight"])
    run.begin()
    for batch in [*run.loader.epoch(0)][:3]:
        run.train_on(batch)
    # 1 - 1/(t + 1) is 0, 1/2 and 2/3 in the first steps, all below the decay.
    expected = (seen[1] / 2 + seen[2] / 2) * 2 / 3 + seen[3] / 3
    torch.testing.assert_close(dict(run.sources["ema"].module.named_parameters())["fc.weight"], expected)


def test_several_teachers_weigh_as_much_as_they_are_told(digits):
    both, first_one, second = (
        engine(text, digits)
        for text in (
            "teachers(of=teacher/second,weights=3/1)+ce:0+kd:1",
            "ce:0+kd:1",
            "teachers(of=second/teacher,weights=1/1e-9)+ce:0+kd:1",
        )
    )
    gradients = []
    for run in (both, first_one, second):
        run.begin()
        run.differentiate(next(iter(run.loader.epoch(0))))
        gradients.append(run.system.networks["student"].fc.weight.grad)
    torch.testing.assert_close(gradients[0], 0.75 * gradients[1] + 0.25 * gradients[2], rtol=1e-4, atol=1e-6)
