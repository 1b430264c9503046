"""TAKD, DGKD and CES-KD: who answers which image, and what a student makes of it."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from potstill.cell import assemble
from potstill.difficulty import MEASURES, measured, strata
from potstill.examples import Examples
from potstill.experts import EXPERTS, Experts
from potstill.loop import Interrupted
from potstill.methods import parse
from potstill.recipe import Fit
from potstill.sources import Network, Shuffled
from potstill.tasks.classify import Classify
from potstill.tasks.curriculum import Curriculum
from potstill.types import MAIN, Batch, DataInfo, Progress, View

ROWS, CLASSES, STEPS = 8, 3, 3
SAMPLES = ROWS * STEPS
FIT = Fit(epochs=4, batch_size=ROWS, schedule="constant", checkpoint_steps=1, checkpoint_seconds=1e9)


def net(seed, width=5, classes=CLASSES):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes)).double()


def frozen(seed, **kw):
    return Network(net(seed, **kw), trained=False)


def everything():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return View(inputs, torch.arange(SAMPLES), torch.randint(0, CLASSES, (SAMPLES,), generator=generator))


class Loader:
    """The same samples in every epoch, in an order of its own."""

    steps, exact = STEPS, True

    def epoch(self, epoch, start=0):
        every = everything()
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        for step in range(start, STEPS):
            rows = order[step * ROWS : (step + 1) * ROWS]
            yield Batch({MAIN: View(every.input[rows], rows, every.label[rows])})


def examples(plain=True):
    info = DataInfo(SAMPLES, ROWS, CLASSES)
    whole = (lambda: iter([Batch({MAIN: everything()})])) if plain else None
    return Examples(Loader(), info, next(iter(Loader().epoch(0))), plain=whole)


LADDER = {"middle": 11, "low": 12}
"""From strong to weak; the teacher is seed 10, and wider."""


def engine(text, fit=FIT, plain=True, assistants=None, **kw):
    if assistants is None:
        widths = {"middle": 8, "low": 6}
        assistants = {name: frozen(seed, width=widths[name]) for name, seed in LADDER.items()}
    return assemble(net(0), frozen(10, width=9), parse(text), examples(plain), fit, assistants=assistants, **kw)


def answers(which, inputs):
    """What the experts of the default ladder say, weakest first."""
    networks = [net(12, 6), net(11, 8), net(10, 9)]
    with torch.no_grad():
        return networks[which](inputs)


def gradient_of(text, epoch=0, step=0, **kw):
    """The student's gradient on one batch, and the batch."""
    made = engine(text, **kw)
    made.start()
    made.step, made.done_epochs = step, epoch
    (batch,) = made.prepared(next(iter(Loader().epoch(0))))
    made.differentiate(batch)
    return made, batch.main, made.system.networks["student"][0].weight.grad


def by_hand(loss_of):
    student = net(0)
    (gradient,) = torch.autograd.grad(loss_of(student), student[0].weight)
    return gradient


def kl(student, expert, temperature):
    """Summed over classes, times T squared; one value a row."""
    target = (expert / temperature).softmax(1)
    own = (student / temperature).log_softmax(1)
    return temperature**2 * (target * (target.log() - own)).sum(1)


# ------------------------------------------------------------------------------------------------ the source


def test_each_row_is_answered_by_its_own_expert_which_sees_no_other_row():
    seen = {}
    experts = {}
    for name in ("a", "b", "c"):
        experts[name] = frozen(ord(name))
        hook = lambda module, args, name=name: seen.setdefault(name, []).append(args[0])  # noqa: E731
        experts[name].module.register_forward_pre_hook(hook)
    view = everything()
    route = np.array([0, 2, 2, 0, 2, 0, 0, 2] * STEPS)
    batch = Batch({MAIN: replace(view, extras={EXPERTS: route})})
    said = Experts(experts)(Classify(), batch, MAIN, ()).output
    assert set(seen) == {"a", "c"}  # nobody asked b
    for name, number in (("a", 0), ("c", 2)):
        rows = torch.from_numpy(route == number)
        assert torch.equal(seen[name][0], view.input[rows])
        torch.testing.assert_close(said[rows], net(ord(name))(view.input)[rows].detach())


def test_several_experts_answer_a_row_and_a_part_of_a_batch_keeps_its_route():
    experts = Experts({"a": frozen(1), "b": frozen(2), "c": frozen(3)})
    view = everything()
    batch = Batch({MAIN: replace(view, extras={EXPERTS: np.tile([0, 2], (SAMPLES, 1))})})
    said = torch.cat([experts(Classify(), part, MAIN, ()).output for part in batch.split(3)])
    assert said.shape == (SAMPLES, 2, CLASSES)
    torch.testing.assert_close(said[:, 1], net(3)(view.input).detach())


# ------------------------------------------------------------------------------------------------ difficulty


def test_measures_of_difficulty():
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05]], dtype=torch.float64).log()
    label = torch.tensor([1, 1])
    expected = {"probability": [1.3862944, -2.1972246], "ce": [1.6094379, 0.1053605], "margin": [0.5, -0.85]}
    expected |= {"entropy": [0.8018186, 0.3943979], "mean_ce": [1.6094379, 0.1053605]}
    for name, values in expected.items():
        found = MEASURES[name](logits, label)
        torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), atol=1e-6, rtol=0)
    sure = torch.tensor([[800.0, 0.0], [900.0, 0.0], [0.0, 900.0], [0.0, 800.0]], dtype=torch.float64)
    found = MEASURES["probability"](sure, torch.zeros(4, dtype=torch.int64))
    assert found.argsort().tolist() == [1, 0, 3, 2]  # 1 - p would be 0, 0, 1 and 1


def test_the_strongest_expert_measures_and_mean_ce_asks_all():
    view = everything()
    experts = [frozen(12, width=6), frozen(11, width=8), frozen(10, width=9)]
    losses = [nn.functional.cross_entropy(answers(m, view.input), view.label, reduction="none") for m in range(3)]
    backwards = [Batch({MAIN: part}) for part in (view.slice(12, SAMPLES), view.slice(0, 12))]
    torch.testing.assert_close(measured("ce", experts, backwards), losses[2])
    torch.testing.assert_close(measured("mean_ce", experts, backwards), torch.stack(losses).mean(0))


def test_strata_have_equal_mass_and_ties_share_one():
    found = strata(torch.rand(31, dtype=torch.float64), 3)
    assert found.bincount().tolist() == [11, 10, 10]
    values = torch.tensor([0.9, 0.0, 0.0, 0.5, 0.0, 0.7], dtype=torch.float64)
    assert strata(values, 3).tolist() == [2, 0, 0, 1, 0, 2]


# ------------------------------------------------------------------------------------------------ the curriculum


def chosen(select, epoch, seed=0, step=0, strata=(0, 1, 2, 2, 1, 0), epochs=12):
    curriculum = Curriculum(3, select, 0.5, epochs, lambda: torch.tensor(strata, dtype=torch.int16))
    curriculum.start()
    rows = torch.arange(len(strata))
    return curriculum.expert(View(rows, rows), Progress(step, epoch, 99), seed).tolist()


def test_gradually_from_the_weakest_expert_to_each_images_own():
    by_epoch = {epoch: chosen("gradual", epoch) for epoch in (0, 1, 2, 3, 4, 6, 11)}
    assert by_epoch[0] == by_epoch[1] == [0, 0, 0, 0, 0, 0]
    assert by_epoch[2] == by_epoch[3] == [0, 1, 1, 1, 1, 0]
    assert by_epoch[4] == by_epoch[6] == by_epoch[11] == [0, 1, 2, 2, 1, 0]
    assert [2 - m for m in chosen("anti", 2)] == by_epoch[2]
    assert chosen("static", 0) == by_epoch[11]


def test_random_experts_are_a_function_of_seed_step_and_image():
    many = tuple([0] * 3000)
    one = chosen("random", 0, strata=many)
    assert one == chosen("random", 5, strata=many)
    assert one != chosen("random", 0, step=1, strata=many) != chosen("random", 0, seed=1, step=1, strata=many)
    assert min(np.bincount(one)) > 900


# ------------------------------------------------------------------------------------------------ the schemes


@pytest.mark.parametrize("epoch", [0, 3])
def test_ces_kd_is_its_formula(epoch):
    _, view, gradient = gradient_of("ces_kd(weight=0.7,temperature=2.0)", epoch)
    whole = everything()
    order = measured("probability", [frozen(10, width=9)], [Batch({MAIN: whole})]).argsort()
    stratum = torch.empty(SAMPLES, dtype=torch.int64)
    stratum[order] = torch.arange(SAMPLES) * 3 // SAMPLES
    expert = stratum[view.index] if epoch else torch.zeros(ROWS, dtype=torch.int64)
    assert len(set(expert.tolist())) == (3 if epoch else 1)
    said = torch.stack([answers(m, view.input) for m in range(3)])[expert, range(ROWS)]

    def loss(student):
        logits = student(view.input)
        return 0.3 * nn.functional.cross_entropy(logits, view.label) + 0.7 * kl(logits, said, 2.0).mean()

    torch.testing.assert_close(gradient, by_hand(loss))


def test_the_average_of_experts_and_dense_guidance_are_their_formulas():
    _, view, gradient = gradient_of("ces_kd(select=average,weight=1)")
    expected = by_hand(lambda s: sum(kl(s(view.input), answers(m, view.input), 4.0).mean() for m in range(3)) / 3)
    torch.testing.assert_close(gradient, expected)
    dropped = set()
    for step in range(9):
        _, view, gradient = gradient_of("dgkd(temperature=2)", step=step)
        kept = view.extras[EXPERTS][0].tolist()
        assert len(kept) == 2
        dropped |= {0, 1, 2} - set(kept)
        expected = by_hand(lambda s, k=kept, v=view: sum(kl(s(v.input), answers(m, v.input), 2.0).mean() for m in k))
        torch.testing.assert_close(gradient, expected)
    assert dropped == {0, 1, 2}


def test_the_last_assistant_teaches_in_place_of_the_teacher():
    _, view, gradient = gradient_of("takd(weight=1)")
    torch.testing.assert_close(gradient, by_hand(lambda s: kl(s(view.input), answers(0, view.input), 4.0).mean()))


@pytest.mark.parametrize("text", ["ces_kd", "ces_kd(select=average)", "dgkd"])
def test_micro_batches_have_the_gradient_of_the_whole(text):
    gradients = [gradient_of(text, epoch=3, fit=replace(FIT, micro_batch=size))[2] for size in (None, 3)]
    torch.testing.assert_close(*gradients)


def test_shuffled_experts_answer_about_another_image():
    made = engine("ces_kd~shuffled")
    made.start()
    (batch,) = made.prepared(next(iter(Loader().epoch(0))))
    source = made.sources[EXPERTS]
    assert isinstance(source, Shuffled)
    said, own = (one(made.task, batch, MAIN, ()).output for one in (source, source.source))
    assert torch.equal(said, own.roll(1, 0))


# ------------------------------------------------------------------------------------------------ a killed run


@pytest.mark.parametrize("text", ["ces_kd", "ces_kd(select=random)", "dgkd"])
@pytest.mark.parametrize("step", [1, 7])
def test_a_killed_run_comes_to_the_same_bits(tmp_path, text, step):
    whole = engine(text, folder=tmp_path / "whole")
    whole.run()

    def press(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        engine(text, folder=tmp_path / "parts", on_step=press).run()
    rest = engine(text, folder=tmp_path / "parts")
    if text == "ces_kd":
        rest.task._measure = lambda: pytest.fail("strata were measured again")
    rest.run(resume=True)
    for one, other in zip(whole.system.parameters(), rest.system.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.history == rest.history


def test_a_student_learns():
    made = engine("ces_kd(weight=0.5,temperature=1.0)", fit=replace(FIT, epochs=40, lr=0.5))
    made.run()
    losses = [row["terms"]["ce"] for row in made.history]
    assert losses[-1] < 0.7 * losses[0]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("text", ["takd", "ces_kd", "dgkd"])
def test_without_assistants_it_says_how_to_add_them(text):
    with pytest.raises(ValueError, match=rf"{text}: the recipe has no assistants; .*--ladder MODEL"):
        engine(text, assistants={})


@pytest.mark.parametrize("text", ["ces_kd", "dgkd"])
def test_experts_have_the_same_classes(text):
    with pytest.raises(ValueError, match=r"different numbers of classes \(low with 4, teacher with 3\)"):
        engine(text, assistants={"low": frozen(1, classes=4)})


def test_experts_that_count_as_weak_and_are_large_are_named():
    with pytest.warns(UserWarning, match=r"'middle' \(51 parameters\) counts as weaker than 'low' \(43\)"):
        assert engine("ces_kd", assistants={"low": frozen(12, width=5), "middle": frozen(11, width=6)})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ces_kd(select=gradualy)", "unknown select 'gradualy'; did you mean 'gradual'"),
        ("ces_kd(difficulty=margn)", "did you mean 'margin'"),
        ("ces_kd(rho=0.0)", r"in \(0, 1\], got 0"),
        ("ces_kd(weight=1.5)", "between 0 and 1, got 1.5"),
        ("takd(temperature=0.0)", "must be positive"),
        ("dgkd(drop=-1)", "at least 0"),
    ],
)
def test_wrong_options(text, says):
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_somebody_is_left_to_teach():
    with pytest.raises(ValueError, match=r"3 of 3 experts \(low, middle, teacher\) are dropped"):
        engine("dgkd(drop=3)")


def test_difficulties_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match=r"one is empty \(sizes \[24, 0\].*with 1 different difficulties"):
        strata(torch.zeros(24, dtype=torch.float64), 2)


def test_data_that_cannot_be_measured():
    with pytest.raises(ValueError, match="a loader of your own gives only its batches; give the data set itself"):
        engine("ces_kd", plain=False).start()
    engine("ces_kd(select=random)", plain=False).start()
    unlabelled = [Batch({MAIN: replace(everything(), label=None)})]
    with pytest.raises(ValueError, match="the data gives no labels"):
        measured("margin", [frozen(1)], unlabelled)
