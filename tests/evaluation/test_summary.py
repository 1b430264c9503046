"""The summary of a comparison run."""

import json
import math
from dataclasses import replace

import pytest
from scipy import stats

from potstill.evaluation.summary import Cell, summarise

STUDENT = {0: 70.0, 1: 70.6, 2: 69.8, 3: 70.3, 4: 70.9}
KD = {0: 73.1, 1: 73.2, 2: 72.8, 3: 73.9, 4: 74.0}


def cell(method="kd", seed=0, top1=73.0, **changes):
    made = Cell(method, seed, top1, top1 + 0.5, 80.0, 1234, 9.0, f"ce:1+{method}:1", f"{method}/seed{seed}")
    return replace(made, **changes)


def cells(**accuracies):
    return [cell(method, seed, top1) for method, found in accuracies.items() for seed, top1 in found.items()]


def summary_of(made, **changes):
    given = {"dataset": "digits", "teacher": {"model": "big", "top1": 80.0}, "run": "demo", **changes}
    return summarise(cells=made, **given)


def test_rows_and_their_numbers():
    found = summary_of(cells(student=STUDENT, kd=KD), notes=["one"], device="cpu")
    assert json.loads(json.dumps(found)) == found
    assert (found["result"], found["baseline"], found["notes"], found["device"]) == (
        "last epoch",
        "student",
        ["one"],
        "cpu",
    )
    student, kd = found["rows"]
    assert student["difference"] is None
    assert kd["top1"] == list(KD.values())
    assert kd["best_mean"] == pytest.approx(kd["top1_mean"] + 0.5)
    assert (kd["n"], kd["parameters"], kd["agreement_mean"], kd["seconds"]) == (5, 1234, 80.0, 9.0)
    assert kd["folders"][4] == "kd/seed4"
    difference = kd["difference"]
    theirs = stats.ttest_rel(list(KD.values()), list(STUDENT.values()))
    assert difference["p"] == pytest.approx(theirs.pvalue)
    assert difference["low"] < difference["mean"] < difference["high"]
    assert (difference["verdict"], difference["n"], difference["paired"]) == ("better", 5, True)


def test_order_of_rows_and_of_seeds():
    made = [cell("b", 2, 12.0), cell("a", 0), cell("b", 1, 11.0)]
    rows = summary_of(made)["rows"]
    assert [row["method"] for row in rows] == ["b", "a"]
    assert (rows[0]["seeds"], rows[0]["top1"]) == ([1, 2], [11.0, 12.0])


def test_pairs_only_the_common_seeds():
    rows = summary_of(cells(student=STUDENT, kd={1: 73.6, 3: 73.3, 7: 99.0}))["rows"]
    assert rows[1]["difference"]["n"] == 2
    assert rows[1]["difference"]["mean"] == pytest.approx(3.0)
    assert rows[1]["difference"]["verdict"] == "not powered"


def test_no_common_seed_or_no_baseline():
    assert summary_of(cells(student=STUDENT, kd={9: 73.0}))["rows"][1]["difference"] is None
    assert summary_of(cells(kd=KD))["rows"][0]["difference"] is None
    rows = summary_of(cells(student=STUDENT, kd=KD), baseline="kd")["rows"]
    assert rows[0]["difference"]["verdict"] == "worse"
    assert rows[1]["difference"] is None


def test_one_seed_has_no_interval():
    row = summary_of(cells(student={0: 70.0}, kd={0: 73.0}))["rows"][1]
    assert (row["top1_std"], row["n"]) == (None, 1)
    assert row["difference"] == {
        **{"mean": 3.0, "std": None, "n": 1, "low": None, "high": None, "p": None, "detectable": None},
        **{"verdict": "not powered", "paired": True},
    }


def test_agreement_may_be_missing():
    made = [cell(seed=0, agreement=None), cell(seed=1, agreement=60.0)]
    assert summary_of(made)["rows"][0]["agreement_mean"] == 60.0
    assert summary_of(made[:1])["rows"][0]["agreement_mean"] is None


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([], "no cells"),
        ([cell(), cell()], "more than once"),
        ([cell(top1=math.nan)], "top1 is nan"),
        ([cell(agreement=101.0)], "agreement is 101"),
        ([cell(seconds=-1.0)], "seconds"),
        ([cell(folder="/kd/seed0")], "relative"),
        ([cell(folder="../kd")], "relative"),
        ([cell(), cell(seed=1, expansion="kd:9")], "disagree on expansion"),
        ([cell(), cell(seed=1, parameters=9)], "disagree on parameters"),
    ],
)
def test_bad_cells(made, says):
    with pytest.raises(ValueError, match=says):
        summary_of(made)


def test_bad_extra():
    with pytest.raises(ValueError, match="rows"):
        summary_of([cell()], rows=[])
    with pytest.raises(ValueError, match="JSON"):
        summary_of([cell()], loss=math.nan)
    with pytest.raises(ValueError, match="JSON"):
        summary_of([cell()], teacher={"model": object()})
