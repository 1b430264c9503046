"""Published numbers: where they stand, which snapshot counts, and for which runs they are offered."""

import csv
from dataclasses import replace
from importlib.resources import files

import pytest

from potstill.data import Data
from potstill.methods import parse
from potstill.models import MODELS
from potstill.published import comparable, published, snapshots
from potstill.recipe import Fit, Network, Recipe

LINES = list(csv.DictReader(files("potstill").joinpath("published.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    ("teacher", "student", "method", "value", "repository"),
    [
        ("wrn_40_2", "wrn_16_2", "student", 73.26, "giakoumoglou/distillers"),
        ("wrn_40_2", "wrn_16_2", "teacher", 75.61, "giakoumoglou/distillers"),
        ("vgg13", "vgg8", "kd", 72.98, "HobbitLong/RepDistiller"),
        ("resnet32x4", "resnet8x4", "crd", 75.51, "HobbitLong/RepDistiller"),
        ("resnet110", "resnet20", "icd+kd", 72.03, "4 September 2024"),
        ("wrn_40_2", "ShuffleV1", "icd+kd", 76.51, "14 November 2024"),
        ("wrn_40_2", "wrn_16_2", "rrd", 75.33, "4 September 2024"),
        ("resnet32x4", "ShuffleV2", "dkd", 77.07, "mdistiller"),
        ("ResNet50", "MobileNetV2", "kd", 67.35, "RepDistiller"),
    ],
)
def test_known_cells(teacher, student, method, value, repository):
    found = published("cifar100", teacher, student, method)
    assert found.value == value
    assert repository in found.source


def test_a_source_that_gives_a_deviation():
    found = published("cifar100", "resnet32x4", "resnet8x4", "dist")
    assert (found.value, found.std) == (76.31, 0.19)


@pytest.mark.parametrize(
    "cell",
    [
        ("digits", "wrn_40_2", "wrn_16_2", "kd"),
        ("cifar100", "wrn_16_2", "wrn_40_2", "kd"),
        ("cifar100", "wrn_40_2", "wrn_40_1", "fsp"),  # its Gram matrices need equal widths
        ("cifar100", "wrn_40_2", "wrn_16_2", "icd:2"),
        ("cifar100", "wrn_40_2", "wrn_16_2", "icd~shuffled"),
    ],
)
def test_what_nobody_published_is_none(cell):
    assert published(*cell) is None


def test_the_snapshots_are_in_order():
    values = [found.value for found in snapshots("cifar100", "resnet110", "resnet20", "icd + kd")]
    assert values == [71.57, 72.03]


def test_the_file_names_what_potstill_knows():
    pairs = [key.split(">") for key in LINES[0] if ">" in key]
    assert len(pairs) == 13
    assert {name for pair in pairs for name in pair} <= set(MODELS)
    for line in LINES:
        assert line["source"]
        if line["method"] != "teacher":
            parse(line["method"])


def test_every_number_is_an_accuracy():
    values = [float(v.partition("±")[0]) for line in LINES for key, v in line.items() if ">" in key and v]
    assert len(values) > 330
    assert all(55 < value < 80 for value in values)


PROTOCOL = Recipe(data=Data("cifar100"), teacher=Network("wrn_40_2"), student=Network("wrn_16_2"))


def test_the_protocol_is_comparable():
    assert comparable(PROTOCOL)
    assert comparable(replace(PROTOCOL, data=Data("cifar100", label="fine_label", size=32)))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": Data("digits")},
        {"data": Data("cifar100", label="coarse_label")},
        {"data": Data("cifar100", train_rows=10_000)},
        {"data": Data("cifar100", valid_rows=5_000)},
        {"data": Data("cifar100", size=64)},
        {"data": Data("cifar100", augment="none")},
        {"student": Network("wrn_16_2", size=64)},
        {"fit": Fit(epochs=30)},
    ],
)
def test_other_data_and_shorter_runs_are_not(changes):
    assert not comparable(replace(PROTOCOL, **changes))
