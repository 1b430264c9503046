"""Teacher assistants, as a user has them: on the command line, in a grid, stopped half way, from Python."""

import json
import os
import signal

import pytest
import torch
from networks import PlainCNN, bars

import potstill
from potstill import catalogue
from potstill.engine import Engine

LADDER = """\
from potstill import Data, Fit, Network, Recipe
from potstill.recipe import Assistant

def recipe(smoke=False):
    return Recipe(
        data=Data(augment="crop", valid_rows=200),
        teacher=Network("small_cnn", width=16),
        student=Network("small_cnn"),
        assistants=(
            Assistant("middle", Network("small_cnn", width=12)),
            Assistant("low", Network("small_cnn", width=10), teacher="middle", method="dgkd"),
        ),
        methods=("takd", "ces_kd", "dgkd"),
        fit=Fit(epochs=8, batch_size=20, lr=0.1, schedule="cosine", checkpoint_steps=4),
    )
"""
FLOAT32 = ("--precision", "float32")
SHORT = ("--methods", "ces_kd", "--fit.epochs", "2", "--quiet")


@pytest.fixture
def ladder(shell, tmp_path, good):
    """`ladder("distill", ...)`: the recipe above with a teacher that is worth something."""
    (tmp_path / "ladder.py").write_text(LADDER)
    teacher = ("--teacher.checkpoint", good / "teacher" / "student.safetensors")
    return lambda command, *words: shell(command, "ladder.py", *FLOAT32, *teacher, *words)


@pytest.fixture
def trained(monkeypatch):
    """Steps that were taken, by the folder of whoever took them."""
    steps, move = {}, Engine.move

    def counting(engine):
        move(engine)
        name = engine.folder.name if engine.folder else None
        steps[name] = steps.get(name, 0) + 1

    monkeypatch.setattr(Engine, "move", counting)
    return steps


def weights(folder):
    return (folder / "student.safetensors").read_bytes()


def test_students_learn_from_a_ladder(ladder, tmp_path):
    status, said, error = ladder("distill", "--out", "run", "--data.order", "shared", "--json", "--quiet")
    assert status == 0, error
    rows = {row["method"]: row["top1"][0] for row in json.loads(said)["rows"]}
    assert rows.keys() >= {"takd", "ces_kd", "dgkd"}
    assert min(rows[name] for name in ("takd", "ces_kd", "dgkd")) > 30  # of ten digits
    card = json.loads((tmp_path / "run" / "low" / "student.json").read_text())
    assert card["expansion"] == "dgkd(drop=1,weight=1.0,temperature=5.0)"  # from the teacher and the middle one
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["teacher"]["assistants"]
    assert [one["name"] for one in found] == ["middle", "low"]


def test_stopped_in_the_middle_of_an_assistant(ladder, tmp_path, monkeypatch):
    assert ladder("distill", *SHORT, "--out", "whole")[0] == 0
    move = Engine.move

    def pressing(engine):
        move(engine)
        if engine.folder is not None and (engine.folder.name, engine.step) == ("low", 7):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "move", pressing)
        assert ladder("distill", *SHORT, "--out", "parts")[0] == 130
    assert not (tmp_path / "parts" / "low" / "result.json").exists()
    assert ladder("distill", *SHORT, "--out", "parts", "--resume")[0] == 0
    for name in ("middle", "low", "ces_kd/seed0"):
        assert weights(tmp_path / "parts" / name) == weights(tmp_path / "whole" / name), name


def test_two_grids_share_assistants(shell, tmp_path, trained):
    (tmp_path / "ladder.py").write_text(LADDER)
    words = ("ladder.py", *SHORT, *FLOAT32, "--teachers", "teachers")
    assert shell("bench", *words, "--out", "one")[0] == 0
    before = dict(trained)
    assert sum(name.startswith("small_cnn-") for name in before) == 3  # the teacher and both assistants
    assert shell("bench", *words, "--out", "two", "--seeds", "2")[0] == 0
    more = {name: count - before.get(name, 0) for name, count in trained.items()}
    assert {name for name, count in more.items() if count} == {"seed0", "seed1"}
    pair = next((tmp_path / "two" / "pairs").iterdir())
    assert weights(pair / "low") == weights(tmp_path / "one" / "pairs" / pair.name / "low")


def test_check_counts_the_training_of_assistants(ladder):
    status, said, error = ladder("check", "--methods", "ces_kd", "--rounds", "1", "--json")
    assert status == 0, error
    found = json.loads(said)
    assert [row["name"] for row in found["assistants_training"]] == ["middle", "low"]
    assert [row["role"] for row in found["networks"]] == ["teacher", "assistant middle", "assistant low", "student"]
    assert [row["method"] for row in found["methods"]] == ["ces_kd"]
    parts = [*found["assistants_training"], *found["methods"]]
    assert found["eta_seconds"] == pytest.approx(sum(row["eta_seconds"] for row in parts), abs=0.01)


def test_a_ladder_on_the_command_line(shell, tmp_path):
    words = ("distill", "small.py", *FLOAT32, "--methods", "takd", "--fit.epochs", "1", "--quiet", "--out", "run")
    assert shell(*words, "--ladder", "plane4", "plane2")[0] == 0
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]
    assert [(one["name"], one["teacher"]) for one in recipe["assistants"]] == [
        ("plane4", "teacher"),
        ("plane2", "plane4"),
    ]
    assert json.loads((tmp_path / "run" / "plane2" / "student.json").read_text())["expansion"] == "ce:0.1+kd:0.9"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--ladder", "plane3"), "unknown model 'plane3': did you mean 'plane"),
        (("--ladder", "plane2", "plane2"), "'plane2' stands on it twice"),
        ((), "takd: the recipe has no assistants; distil some from the teacher: --ladder MODEL"),
    ],
)
def test_ladders_that_are_none(shell, nothing_left, words, says):
    status, _, error = shell("distill", "small.py", *FLOAT32, "--methods", "takd", "--out", "out", *words)
    assert status == 1
    assert says in error


@pytest.mark.parametrize("method", ["takd", "ces_kd", "dgkd", "ces_kd~shuffled"])
def test_assistants_from_python(teacher, taught, method):
    middle, student = PlainCNN(), PlainCNN()
    middle.load_state_dict({name: value + 0.01 for name, value in taught.items()})
    middle.train()
    kept = {name: value.clone() for name, value in middle.state_dict().items()}
    found = []

    def look(module, args):
        found.append(len(args[0]))

    middle.register_forward_pre_hook(look)
    data = bars(160)
    potstill.distill(
        teacher, student, data, method=method, assistants={"middle": middle}, epochs=6, precision="float32", quiet=True
    )
    assert found
    assert middle.training
    assert all(torch.equal(value, kept[name]) for name, value in middle.state_dict().items())
    if method != "ces_kd~shuffled":
        right = (student(data[0]).argmax(1) == data[1]).float().mean()
        assert right > 0.6  # of three classes


def test_what_python_refuses(teacher, student):
    options = {"method": "takd", "quiet": True}
    for assistants, says in (
        ({"teacher": PlainCNN()}, "give each a plain name of its own"),
        ({"middle": student}, "middle and student are the same module"),
        ({"middle": "resnet8"}, "the middle must be a torch.nn.Module, got str"),
    ):
        with pytest.raises(ValueError, match=says):
            potstill.distill(teacher, student, bars(60), assistants=assistants, **options)


@pytest.mark.parametrize("name", ["ces_kd_cifar100", "takd_cifar100", "dgkd_cifar100"])
@pytest.mark.parametrize("smoke", [False, True])
def test_the_recipes_can_be_read(name, smoke):
    from potstill.assistants import with_ladder
    from potstill.methods import parse
    from potstill.models import build

    recipe = with_ladder(catalogue.recipe(name, smoke)[0])
    names = [recipe.teacher.name, *(one.network.name for one in recipe.assistants), recipe.student.name]
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in build(one, num_classes=100).parameters()) for one in names]
    assert sizes == sorted(sizes, reverse=True)
    assert any(parse(text).scheme is not None for text in recipe.methods)
