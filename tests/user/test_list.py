"""`potstill list methods`: what there is, and what two networks allow."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from potstill import __version__
from potstill.methods_index import entries, look
from potstill.models import build
from potstill.pairs import Pair, tried
from potstill.report import listing

NAMES = [entry.name for entry in entries()]

FOR_TEXTS = {entry.name for entry in entries() if getattr(entry.kind, "wants", "")}


@pytest.fixture(scope="module")
def first():
    """The list without a pair."""
    return look()


@pytest.fixture(scope="module")
def unequal():
    """WRN-40-2 and WRN-40-1: as many stages, half the channels."""
    return look(Pair("wrn_40_2", "wrn_40_1"))


def drawn(table, width):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_rows_say_where_things_come_from(first):
    rows = {row["method"]: row for row in first[0]}
    assert list(rows) == NAMES
    assert rows["student"]["stands_for"] == "ce:1"
    assert rows["at"] | {"paper": ""} == {
        "method": "at",
        "year": 2017,
        "matches": "features",
        "relates": "each sample by itself",
        "weight": 1000.0,
        "weight_from": "RepDistiller's command",
        "parameters": 0,
        "MiB": 0.0,
        "stages": 1,
        "stands_for": "ce:1+at:1000",
        "taps": ["stages", "stages"],
        "title": "Paying More Attention to Attention",
        "wants": None,
        "paper": "",
    }
    assert rows["kd"]["weight"] == 0.9
    assert [rows[name]["stages"] for name in ("ab", "fsp", "ft", "icd")] == [2, 2, 2, 1]


def test_what_is_counted_is_what_is_trained(first):
    rows = {row["method"]: row for row in first[0]}
    assert rows["crd"]["parameters"] == 2 * (128 * 128 + 128)
    assert rows["crd"]["MiB"] >= 2 * 50_000 * 128 * 4 / 2**20
    assert rows["icd"]["parameters"] == rows["crd"]["parameters"] + 2
    assert rows["rrd"]["parameters"] == 128 * 128 + 128, "its teacher head is frozen"
    translator = 9 * 128 * 128 + 128 + 9 * 128 * 64 + 64 + 9 * 64 * 64 + 64 + 2 * (128 + 64 + 64)
    assert rows["ft"]["parameters"] > 2 * translator, "both stages"
    projector = 128 * 64 + 9 * 64 * 64 + 64 * 128 + 2 * (64 + 64 + 128)
    assert rows["simkd"]["parameters"] == projector, "what it puts around the student"
    assert {name for name, row in rows.items() if row["parameters"] is None} == FOR_TEXTS


def test_what_does_not_apply_is_a_row_with_a_reason(unequal):
    rows, counted = unequal
    refused = {row["method"]: row for row in rows if not row["applies"]}
    assert set(refused) == {"fsp", "kdsvd"} | FOR_TEXTS
    assert (
        refused["gold"]["reason"]
        == "no view 'teacher': it reads texts cut by two tokenizers (potstill.language.crossing)"
    )
    assert refused["fsp"]["reason"].startswith("the student's layers have [16, 16, 32, 64] channels")
    assert "at, nst and sp do without" in refused["fsp"]["reason"]
    assert refused["fsp"]["parameters"] is refused["fsp"]["MiB"] is None
    sizes = [sum(p.numel() for p in build(name, num_classes=100).parameters()) for name in ("wrn_40_2", "wrn_40_1")]
    assert list(counted.sizes) == sizes


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_tables_fit_and_break_no_name(first, unequal, width):
    for rows, counted in (first, unequal):
        text = drawn(listing.methods(rows, counted, width), width)
        assert max(map(len, text.splitlines())) <= width
        lines = text.partition("\n\n")[0].splitlines()  # the notes stand below
        for row in rows:
            (line,) = [line for line in lines if f"{line} ".startswith(f"{row['method']} ")]
            if width > 60:
                assert row["stands_for"] in line
        assert ("Not shown at this width" in text) == (width < 160 if rows is first[0] else width < 120)
    assert "Not fsp: the student's layers" in text


def test_nothing_that_a_pair_shows_depends_on_the_order():
    found = entries()
    pair = Pair("small_cnn", "small_cnn", size=12, classes=5, channels=1)
    there = tried(pair, [entry.method for entry in found]).added
    back = tried(pair, [entry.method for entry in reversed(found)]).added
    assert there == tuple(reversed(back))


def test_the_command(shell):
    status, out, err = shell("list", "methods", "--for", "wrn_16_2", "wrn_16_1", "--size", "16", "--json")
    assert (status, err) == (0, "")
    assert [row["method"] for row in json.loads(out)] == NAMES
    assert all({"applies", "reason", "parameters", "MiB"} <= row.keys() for row in json.loads(out))
    status, out, err = shell("list", "methods", "--for", "small_cnn", "small_cnn", "--classes", "7", "--channels", "1")
    assert (status, err) == (0, "")
    assert "1 x 32 x 32 pixels and 7 classes" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("methods", "--for", "wrn_40_2", "wrn_16_3"), "unknown model 'wrn_16_3': did you mean 'wrn_16_2'"),
        (("methods", "--for", "vgg13", "vgg8", "--size", "7"), "cannot run on an input of shape [8, 3, 7, 7]"),
        (("methods", "--for", "vgg13", "vgg8", "--size", "0"), "--size is the height and width"),
        (("methods", "--for", "vgg13", "vgg8", "--classes", "0"), "needs at least one class"),
        (("methods", "--size", "64"), "belong to: list methods --for TEACHER STUDENT"),
        (("models", "--for", "vgg13", "vgg8"), "not list models"),
    ],
)
def test_what_cannot_be_asked(shell, words, message):
    status, out, err = shell("list", *words)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_one_class_leaves_no_negatives(shell):
    status, out, _ = shell("list", "methods", "--for", "small_cnn", "small_cnn", "--classes", "1", "--json")
    assert status == 0
    refused = {row["method"]: row["reason"] for row in json.loads(out) if not row["applies"]}
    assert "there are no negatives" in refused["crd"]


def test_python_m_potstill():
    words = [sys.executable, "-m", "potstill", "--version"]
    assert subprocess.run(words, capture_output=True, text=True).stdout == f"potstill {__version__}\n"
