"""The thirteen pairs of the literature's tables: every method trains on each, or says before the first step why not."""

import pytest
import torch

from potstill.adapting import adapted
from potstill.cell import assemble
from potstill.examples import Examples, source
from potstill.methods import Method, parse
from potstill.models import build
from potstill.objectives import OBJECTIVES
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.stages import Stage
from potstill.types import MAIN, Batch, DataInfo, View

PAIRS = [
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
]
METHODS = [name for name, k in OBJECTIVES.items() if k.part_of is None and k.default_taps[1] and not k.wants]
HUGE = {"semckd", "ft"}
"""Projectors of up to 850 million parameters for a ResNet-50: sized, which takes a second, but not trained here."""
ROWS = 4


class Once:
    """One batch an epoch."""

    steps, exact = 1, True

    def __init__(self, batch):
        self.batch = batch

    def epoch(self, epoch, start=0):
        yield self.batch


def setting(teacher, student):
    torch.manual_seed(0)
    pixels, index = torch.randn(ROWS, 3, 32, 32), torch.arange(ROWS)
    batch = Batch({MAIN: View(pixels, index, index)})
    info = DataInfo(64, ROWS, 100, torch.arange(64) % 100)
    networks = build(teacher, num_classes=100), build(student, num_classes=100)
    guide = source(networks[0], batch, trained=False, preprocess=None, precision=Precision())
    return guide, networks[1], Examples(Once(batch), info, batch)


def not_for(teacher, student):
    """What compares channels one by one, and nothing else (FSP is what the literature's tables leave out too)."""
    same = {"wrn_40_2": "wrn_16_2", "resnet56": "resnet20", "resnet110": "resnet20", "resnet32x4": "resnet8x4"}
    unequal = same.get(teacher) != student and (teacher, student) not in (("resnet110", "resnet32"), ("vgg13", "vgg8"))
    return {"fsp", "kdsvd"} if unequal else set()


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_every_method_that_applies_takes_a_step(teacher, student):
    """All of them at once, each as its own term: the teacher runs once."""
    guide, network, examples = setting(teacher, student)
    left_out = not_for(teacher, student) | (HUGE if teacher == "ResNet50" else set())
    terms = {}
    for name in METHODS:
        method = parse(name)
        if method.adapting or name in left_out:
            continue
        terms |= {term.label: term for stage in method.stages for term in stage.terms if not term.init}
        terms |= {term.label: term for term in method.terms}
    # The stages of one method do not run side by side: what the second is handed waits for the real run.
    together = Method("all", (Stage("", tuple(terms.values())),), "")
    engine = assemble(network, guide, together, examples, Fit(epochs=1, batch_size=ROWS, lr=1e-6))
    result = engine.run()
    losses = result.history[0]["terms"]
    assert set(METHODS) - left_out - {"simkd"} <= set(losses)
    assert all(value == value and abs(value) < float("inf") for value in losses.values()), losses


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_simkd_takes_a_step(teacher, student):
    guide, network, examples = setting(teacher, student)
    method = parse("simkd")
    network = adapted(network, guide, method, examples)
    engine = assemble(network, guide, method, examples, Fit(epochs=1, batch_size=ROWS))
    assert engine.run().history[0]["terms"]["simkd"] > 0


@pytest.mark.parametrize("method", ["fsp", "kdsvd"])
@pytest.mark.parametrize(("teacher", "student"), [pair for pair in PAIRS if not_for(*pair)])
def test_what_cannot_apply_says_what_to_take_instead(teacher, student, method):
    guide, network, examples = setting(teacher, student)
    with pytest.raises(ValueError, match=r"they must be equal. at, nst and sp do without, vid brings a regressor"):
        assemble(
            network, guide, (made := parse(method)), examples, Fit(epochs=1, batch_size=ROWS), stage=made.stages[0]
        )


def test_the_deepest_stages_are_paired_where_numbers_differ():
    guide, network, examples = setting("vgg8", "small_cnn")
    told = r"at: teacher has 4 stages and the other side 3, so its deepest are taken: stage2, stage3, stage4"
    with pytest.warns(UserWarning, match=told):
        engine = assemble(network, guide, parse("at"), examples, Fit(epochs=1, batch_size=ROWS))
    assert engine.system.wired[1].right.taps == ("stage2", "stage3", "stage4")
    assert engine.system.wired[1].left.taps == ("stage1", "stage2", "stage3")
    assemble(network, guide, parse("semckd"), examples, Fit(epochs=1, batch_size=ROWS))  # it relates all to all
