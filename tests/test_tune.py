"""Trials of fair tuning: as many for every method, published first, and each a method that can be run."""

import pytest

from potstill import Grid, Recipe
from potstill.methods import parse
from potstill.objectives import OBJECTIVES
from potstill.tune import grid_of_trials, trials, with_tuned

RUNNABLE = [
    name for name, kind in OBJECTIVES.items() if kind.part_of is None and name != "ce" and parse(name).classifies
]


@pytest.mark.parametrize("text", [*RUNNABLE, "icd+kd", "dkd=dkd(beta=6)", "icd~shuffled", "rrd+kd:0.5"])
def test_equally_many_trials_and_the_first_is_the_published_setting(text):
    found = [parse(trial) for trial in trials(text, 5)]
    published = parse(text)
    assert found[0].expansion == published.expansion
    assert [method.name.rpartition(".t")[2] for method in found] == list("01234")
    assert {method.control for method in found} == {published.control}
    assert len({method.expansion for method in found}) == 5


def test_weights_and_temperatures_stay_in_range():
    weights, temperatures = [], []
    for trial in trials("kd", 200)[1:]:
        ce, kd = parse(trial).terms
        assert ce.weight == 0.1
        weights.append(kd.weight / 0.9)
        temperatures.append(dict(kd.objective.kwargs)["temperature"] / 4)
    assert 0.1 <= min(weights) < 0.12
    assert 8 < max(weights) <= 10
    assert 0.25 <= min(temperatures) < 0.28
    assert 3.5 < max(temperatures) <= 4
    below = sum(weight < 1 for weight in weights)
    assert 90 < below < 110


def test_the_lone_student_has_nothing_to_tune():
    assert trials("student", 10) == ["student.t0=ce:1"]


def test_trials_see_no_test_image_and_one_seed():
    tried = grid_of_trials(Grid({"a": Recipe(methods=("student", "kd"), seeds=5)}), 3, seed=0)
    recipe = tried.pairs["a"]
    assert recipe.data.held_out == 0.1
    assert recipe.seeds == 1
    assert len(recipe.methods) == 4
    with pytest.raises(ValueError, match="at least 2"):
        grid_of_trials(Grid({"a": Recipe()}), 1, seed=0)


def test_the_best_trial_becomes_an_arm_unless_it_is_the_published_one():
    grid = Grid({"a": Recipe(methods=("student", "kd", "icd"), seeds=5)}, seeds={"kd": 3})
    tops = {"student.t0": 50.0, "kd.t0": 60.0, "kd.t1": 61.0, "icd.t0": 62.0, "icd.t1": 62.0}
    expansions = {name: "ce:0.1+kd:2" if name == "kd.t1" else name.split(".")[0] for name in tops}
    rows = [{"method": name, "top1_mean": top, "expansion": expansions[name]} for name, top in tops.items()]
    whole, found = with_tuned(grid, {"pairs": [{"pair": "a", "summary": {"rows": rows}}]}, 2)
    assert whole.pairs["a"].methods == ("student", "kd", "icd", "kd-tuned=ce:0.1+kd:2")
    assert whole.seeds == {"kd": 3, "kd-tuned": 3}
    assert found["a"]["kd"]["held_out_top1"] == 61.0
    assert found["a"]["icd"]["published_is_best"]
    assert any("read once" in note for note in whole.notes)
    with pytest.raises(ValueError, match="all trials of 'icd' failed"):
        with_tuned(grid, {"pairs": [{"pair": "a", "summary": {"rows": rows[:3]}}]}, 2)
