"""The grids that ship: each can be read, and says what the papers say."""

from pathlib import Path

import pytest

from potstill import catalogue
from potstill.methods import parse
from potstill.models import MODELS

GRIDS = sorted(path.stem for path in (Path(__file__).parents[1] / "recipes" / "grids").glob("*.py"))
SAME = ["wrn_40_2-wrn_16_2", "wrn_40_2-wrn_40_1", "resnet56-resnet20", "resnet110-resnet20", "resnet110-resnet32"]
SAME += ["resnet32x4-resnet8x4", "vgg13-vgg8"]
CROSS = ["vgg13-mobilenetv2", "resnet50-mobilenetv2", "resnet50-vgg8", "resnet32x4-shufflev1", "resnet32x4-shufflev2"]
CROSS += ["wrn_40_2-shufflev1"]
ROWS = {"kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst", "crd"}
ROWS |= {"student", "icd", "icd+kd", "rrd", "rrd+kd", "crd+kd", "dkd", "dist"}


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_can_be_read(name, smoke):
    grid, source = catalogue.grid(name, smoke)
    assert source == name
    jobs = list(grid.jobs())
    assert len(jobs) == len(set(jobs))
    for recipe in grid.pairs.values():
        assert {recipe.teacher.name, recipe.student.name} <= set(MODELS)
        assert len({parse(text).name for text in recipe.methods}) == len(recipe.methods)
    if smoke:
        assert sum(job.kind == "cell" for job in jobs) <= 20
        assert all(recipe.fit.epochs == 1 for recipe in grid.pairs.values())


@pytest.mark.parametrize(("name", "pairs"), [("paper_same", SAME), ("paper_cross", CROSS)])
def test_the_papers_tables(name, pairs):
    grid, _ = catalogue.grid(name, False)
    assert [grid.slug(pair) for pair in grid.pairs] == pairs
    for pair, recipe in grid.pairs.items():
        student = recipe.student.name
        expected = ROWS - ({"fsp"} if name == "paper_cross" or student == "wrn_40_1" else set())
        assert {parse(text).name for text in recipe.methods} == expected, pair
        assert recipe.fit.lr == (0.01 if student[0] in "MS" else 0.05)
        assert (recipe.fit.epochs, recipe.fit.batch_size, recipe.seeds) == (240, 64, 5)
        assert recipe.teacher_fit.lr == 0.05


def test_two_grids_share_their_teachers():
    teachers = set()
    for name in ("paper_same", "paper_cross"):
        for recipe in catalogue.grid(name, False)[0].pairs.values():
            teachers.add((recipe.teacher, recipe.teacher_fit, recipe.data))
    assert len(teachers) == 6  # WRN-40-2, ResNet-56, ResNet-110, ResNet-32x4, VGG-13 and ResNet-50


def test_the_ablation_is_of_one_thing_at_a_time():
    (recipe,) = catalogue.grid("ablation", False)[0].pairs.values()
    arms = {method.name: method.expansion for method in map(parse, recipe.methods)}
    assert arms["icd"] == "ce:1+icd:1"
    assert arms["contrastive-only"] == "ce:1+icd(alpha=0.0):1"
    assert arms["invariance-only"] == "ce:1+icd(contrastive=0.0):1"
    assert arms["width-64"] == "ce:1+icd(width=64):1"
    assert len(set(arms.values())) == len(arms)


def test_the_study_beyond_compression_spoils_the_data_pair_by_pair():
    grid, _ = catalogue.grid("beyond_compression", False)
    leaves = {pair: (recipe.data.label_noise, recipe.data.imbalance) for pair, recipe in grid.pairs.items()}
    assert leaves["wrn_40_2 → wrn_16_2, noise 0.4"] == (0.4, 1)
    assert leaves["resnet56 → resnet20, imbalance 100"] == (0, 100)
    assert leaves["resnet56 → resnet56, clean"] == (0, 1)  # self-distillation
    assert len(leaves) == 21
    for pair, recipe in grid.pairs.items():
        names = {parse(text).name for text in recipe.methods}
        nine = {"kd", "bss", "fitnet", "fsp", "at", "sp", "rkd", "dml", "one"}
        narrow = recipe.student.name in ("wrn_16_1", "wrn_40_1")
        assert names == {"student"} | nine - ({"fsp"} if narrow else set()), pair
        assert pair.rpartition(", ")[2] in recipe.title
