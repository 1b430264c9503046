"""CRD and RRD in the engine: nothing waits, any split moves the memory alike, and a run resumes to the same bits.

Gradients of any split and two ranks: `split_cases.py`.
"""

import os
import signal
from dataclasses import replace

import pytest
import torch
from engine_kit import CLASSES, FIT, SAMPLES, example, make
from test_engine_waiting import watch

from potstill.loop import Interrupted
from potstill.objectives import CRD, RRD, CrossEntropy
from potstill.terms import Spec, Term

BY_SAMPLE = {"width": 4, "exclude": "self"}
METHODS = {
    "crd": Spec.of(CRD, negatives=9, **BY_SAMPLE),
    "crd fifo": Spec.of(CRD, width=4, negatives=20, memory="fifo"),
    "rrd 2024": Spec.of(RRD, width=4, size=20),
    "rrd 2025": Spec.of(RRD, width=4, size=20, version="2025"),
    "rrd momentum": Spec.of(RRD, size=9, memory="momentum", **BY_SAMPLE),
}
every_method = pytest.mark.parametrize("name", METHODS)


def engine(name, steps=4, **kw):
    fit = replace(FIT, epochs=2, checkpoint_steps=1, micro_batch=kw.pop("micro", None), momentum=0.9)
    return make([Term(CrossEntropy), Term(METHODS[name])], [example(step) for step in range(steps)], fit=fit, **kw)


def state(run):
    return {n: v.clone() for n, v in run.system.state_dict().items()}


@pytest.mark.parametrize("micro", [None, 4])
@every_method
def test_nothing_waits(name, micro):
    watch(engine(name, micro=micro))


@every_method
def test_nothing_waits_in_bf16(name):
    watch(engine(name, micro=4, precision="bf16"))


@every_method
def test_any_split_gives_the_same_weights_and_memory(name):
    runs = [engine(name, micro=micro, precision="float64") for micro in (None, 4, 1)]
    for run in runs:
        run.run()
    whole, *parts = (state(run) for run in runs)
    assert any("banks" in n or "queue" in n for n in whole)
    for part in parts:
        for key, value in whole.items():
            torch.testing.assert_close(part[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", [1, 6])
@every_method
def test_resumes_to_the_same_bits(name, step, tmp_path):
    def press(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    whole = engine(name)
    whole.run()
    with pytest.raises(Interrupted):
        engine(name, folder=tmp_path, on_step=press).run()
    rest = engine(name, folder=tmp_path)
    rest.run(resume=True)
    assert all(torch.equal(value, state(whole)[key]) for key, value in state(rest).items())


def test_the_kit_has_no_labels():
    """So the specs above draw from all other samples; with labels they would not have to."""
    assert CLASSES < SAMPLES
    with pytest.raises(ValueError, match="hand over the data set"):
        make([Term(CRD)], [example(0)])
