"""What a run will cost, asked before it: potstill check."""

import json

import pytest
import torch
from live_memory import live_mib

from potstill.models import build

MEMORY = {
    "digits": ("--smoke", "--fit.epochs", "1", "--method", "icd", "--data.valid-rows", "600"),
    "resnet": ("--teacher", "resnet20", "--student", "resnet8", "--method", "icd+kd", "--data.size", "32"),
    "wrn": ("--teacher", "wrn_16_2", "--student", "wrn_16_1", "--method", "at", "--data.size", "20"),
}
SMALL = ("--fit.batch-size", "64", "--fit.epochs", "1", "--data.train-rows", "128", "--data.valid-rows", "64")
FLOAT32 = ("--precision", "float32")
QUICK = (*FLOAT32, "--rounds", "1", "--quiet")


@pytest.fixture
def check(shell):
    """`check(...)` of small.py or what is named: the JSON answer."""

    def run(*words, recipe="small.py"):
        status, out, err = shell("check", *([recipe] if recipe else []), *words, *QUICK, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def trained(tmp_path):
    """Weights of a network of the zoo, for ten classes of grey images."""

    def write(name):
        torch.save(build(name, num_classes=10, in_channels=1).state_dict(), tmp_path / f"{name}.pth")
        return tmp_path / f"{name}.pth"

    return write


@pytest.mark.parametrize("name", MEMORY)
def test_predicted_memory_is_what_the_run_allocates(name, check, shell, trained, tmp_path):
    """The whole command under the profiler: data, teacher, students and evaluations."""
    words = MEMORY[name]
    if name != "digits":
        words = (*words, *SMALL, "--teacher.checkpoint", trained(words[1]))
    predicted = check(*words, recipe=None)["peak_mib"]

    def distill():
        assert shell("distill", *words, *FLOAT32, "--quiet", "--out", tmp_path / "run")[0] == 0

    assert predicted == pytest.approx(live_mib(distill), rel=0.1)


def test_what_it_says(check):
    said = check("--method", "student", "kd", "icd", "--seeds", "2")
    assert {row["role"]: row["parameters"] for row in said["networks"]}["student"] == 5026
    # Three convolutions and the classifier: positions x outputs x inputs of each.
    by_hand = 64 * 8 * 9 + 16 * 16 * 8 * 9 + 4 * 24 * 16 * 9 + 24 * 10
    assert {row["role"]: row["macs"] for row in said["networks"]}["student"] == by_hand
    teacher, rows = said["teacher_training"], {row["method"]: row for row in said["methods"]}
    assert list(rows) == ["student", "kd", "icd"]
    assert {row["steps"] for row in (teacher, *rows.values())} == {20}
    assert list(rows["icd"]["terms_ms"]) == ["ce", "icd"]
    assert rows["icd"]["teacher_ms"] > 0 == rows["student"]["teacher_ms"]
    assert rows["icd"]["objectives_parameters"] > 0 == rows["kd"]["objectives_parameters"]
    for row in rows.values():
        assert 0 < row["wait_share"] < 1
        alone = row["steps"] / row["steps_per_second"]
        evaluations = 3 * 1597 / 512 * row["evaluation_ms"] / 1000  # two epochs, and the trained student
        assert row["eta_seconds"] == pytest.approx(alone + evaluations, rel=0.01)
    whole = teacher["eta_seconds"] + 2 * sum(row["eta_seconds"] for row in rows.values())
    assert said["eta_seconds"] == pytest.approx(whole, rel=1e-3)
    assert said["cells"] == 6


def test_methods_of_several_parts_and_those_that_build_their_student(check):
    said = check("--method", "ab", "simkd", "kd~shuffled", "--fit.epochs", "8")
    rows = {(row["method"], row["stage"]): row for row in said["methods"]}
    assert [key for key in rows if key[0] == "ab"] == [("ab", "ab"), ("ab", "")]
    assert rows["ab", "ab"]["steps"] < rows["ab", ""]["steps"] == 80
    assert rows["ab", "ab"]["evaluation_ms"] == 0  # only the last part is evaluated
    sizes = {row["role"]: row["parameters"] for row in said["networks"]}
    assert sizes["student of simkd"] > sizes["student"]


def test_it_leaves_nothing_behind(check, tmp_path):
    before = torch.get_rng_state()
    check("--method", "icd")
    assert torch.equal(torch.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]


def test_a_person_reads_tables(shell):
    status, out, err = shell("check", "small.py", "--method", "icd", *FLOAT32, "--rounds", "1")
    assert status == 0, err
    for words in ("teacher small_cnn", "5,026", "MACs", "ce ", "icd ", "steps/s", "MiB predicted", "time: "):
        assert words in out, words


def test_it_warns_and_suggests(check, monkeypatch):
    monkeypatch.setattr("potstill.advice.HEAVY", 0.0)  # whatever this machine thinks of so small a teacher
    said = check("--method", "kd", "again=kd", "--fit.momentum", "0.5", "--fit.optimizer", "adamw")
    assert said["warnings"] == ["fit.momentum=0.5 has no effect: the optimizer is adamw"]
    assert set(said["milliseconds"]) == {"float32", "float32-channels-last", "bf16", "bf16-channels-last"}
    cache, twins = said["suggestions"][0], said["suggestions"][-1]
    assert "potstill cache would write 2 view(s) of 200 images (output), 15.6 KiB on disk" in cache
    assert "once for all, and save" in cache
    assert "again is the same training as kd" in twins


def test_what_does_not_fit_is_not_run(check, monkeypatch):
    words = ("--method", "icd", "--fit.batch-size", "200", "--data.valid-rows", "20")
    whole = check(*words)
    room = 0.7 * max(whole["teacher_training"]["memory_mib"]["peak"], whole["peak_mib"])
    monkeypatch.setattr("potstill.check.available", lambda device: int(room * 2**20))
    said = check(*words)
    assert said["eta_seconds"] is None
    assert said["methods"][0]["step_ms"] is None
    (text,) = said["suggestions"]
    assert "--teacher-fit.micro-batch 100" in text
    smaller = check(*words, "--fit.micro-batch", "100", "--teacher-fit.micro-batch", "100")
    assert smaller["peak_mib"] < said["available_mib"]


def test_a_cached_teacher(check, shell, trained):
    taught = ("--method", "icd", "--teacher", "resnet20", "--teacher.checkpoint", trained("resnet20"))
    live = check(*taught)
    assert shell("cache", "small.py", *taught, "--out", "c", "--quiet")[0] == 0
    cached = check(*taught, "--teacher.cache", "c")
    (before,), (after,) = live["methods"], cached["methods"]
    assert after["memory_mib"]["weights"] < before["memory_mib"]["weights"]
    assert after["memory_mib"]["data"] > before["memory_mib"]["data"]  # a view's answers
    assert after["teacher_ms"] < before["teacher_ms"]
    assert not any("potstill cache" in text for text in cached["suggestions"])


def test_a_grid(shell, tmp_path):
    lines = (tmp_path / "small.py").read_text().replace("def recipe(smoke=False):", "def pair(student):")
    pairs = '{"to 8": pair(Network("small_cnn")), "to 4": pair(Network("small_cnn", width=4))}'
    lines = lines.replace('student=Network("small_cnn")', "student=student").replace("import Data", "import Grid, Data")
    (tmp_path / "grid.py").write_text(
        f"{lines}\ndef grid(smoke=False):\n    return Grid({pairs}, seeds={{'icd': 3}})\n"
    )
    status, out, err = shell("check", "grid.py", *QUICK, "--json")
    assert status == 0, err
    said = json.loads(out)
    assert [(pair["pair"], pair["cells"]) for pair in said["pairs"]] == [("to 8", 4), ("to 4", 4)]
    assert said["eta_seconds"] == pytest.approx(sum(pair["eta_seconds"] for pair in said["pairs"]), rel=1e-3)
    assert shell("check", "grid.py", *QUICK, "--pairs", "to-4", "--json")[0] == 0
    status, _, err = shell("check", "grid.py", "--student", "resnet8")
    assert status == 1
    assert "no option --student" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rounds", "0"), "--rounds must be at least 1"),
        (("--method", "idc"), "unknown objective 'idc'"),
        (("--precison", "bf16"), "did you mean '--precision'"),
        (("--precision", "bf8"), "unknown precision 'bf8'"),
    ],
)
def test_mistakes(words, message, shell):
    status, out, err = shell("check", "small.py", *words, "--json")
    assert (status, out) == (1, "")
    assert message in err
