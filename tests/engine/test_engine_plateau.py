"""The plateau schedule: drops, the best weights, the end; and the same after a kill."""

from dataclasses import replace

import pytest
import torch
from engine_kit import FIT, example, make

from potstill.callbacks import Callback
from potstill.loop import Interrupted
from potstill.objectives import CrossEntropy
from potstill.plateau import Plateau
from potstill.terms import Term

WATCHED = [10.0, 30.0, 20.0, 30.0, 40.0, 1.0, 2.0, 3.0, 4.0, 5.0]
"""Two without a better one: after evaluation 4 (at 30.0 a second time), 7 and 9."""


class Film(Callback):
    """The weights after every evaluation, before the plateau acts; may stop the run like Ctrl-C."""

    def __init__(self, until: int | None = None):
        self.seen, self.until = {}, until

    def on_evaluate(self, engine, metrics):
        self.seen[engine.done_epochs] = weights(engine)

    def on_epoch(self, engine):
        if engine.done_epochs == self.until:
            raise Interrupted


def weights(engine):
    return {name: value.clone() for name, value in engine.student.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def engine(film, folder=None, epochs=30, ema=None):

    def evaluate(student):
        return {"watched_top1": WATCHED[made.done_epochs - 1]}

    fit = replace(FIT, epochs=epochs, momentum=0.9, schedule="plateau", patience=2, ema=ema, checkpoint_steps=1)
    made = make(
        [Term(CrossEntropy)],
        [example(0), example(1)],
        fit=fit,
        evaluate=evaluate,
        callbacks=[film, Plateau(2)],
        folder=folder,
    )
    return made


@pytest.mark.parametrize("ema", [None, 0.5])
def test_three_plateaus_end_with_the_best_weights(ema):
    film = Film()
    run = engine(film, ema=ema)
    history = run.run().history
    assert [row["lr"] for row in history] == pytest.approx([0.1] * 4 + [0.01] * 3 + [0.001] * 2)
    assert run.stop
    assert same(weights(run), film.seen[5])
    assert not same(film.seen[9], film.seen[5])


def test_after_a_plateau_the_run_goes_on_from_the_best_weights():
    film = Film()
    run = engine(film, epochs=4)
    run.run()
    assert same(weights(run), film.seen[2])
    assert run.lr_factor == pytest.approx(0.1)
    last = Film()
    short = engine(last, epochs=3)  # its last epoch comes before any plateau
    short.run()
    assert same(weights(short), last.seen[2])
    assert short.lr_factor == 1


@pytest.mark.parametrize("until", [3, 6, 8])
def test_a_killed_run_has_the_same_plateaus(tmp_path, until):
    whole = engine(Film())
    expected = whole.run().history
    with pytest.raises(Interrupted):
        engine(Film(until), folder=tmp_path).run()
    again = engine(Film(), folder=tmp_path)
    assert again.run(resume=True).history == expected
    assert same(weights(again), weights(whole))
