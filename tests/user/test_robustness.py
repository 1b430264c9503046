"""`potstill evaluate --suite robustness`, and what the report makes of it."""

import json
import shutil

import pytest

from potstill.report.page import write_report
from potstill.suites import robustness
from potstill.suites.robustness import KINDS, RobustnessSuite

WORDS = ("--suite", "robustness", "--rows", "24", "--steps", "3", "--methods", "student", "kd", "--quiet")


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory):
    """A run, measured."""
    from potstill.cli import main

    folder = shutil.copytree(demo, tmp_path_factory.mktemp("robust") / "run")
    assert main(["evaluate", str(folder), *WORDS]) == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def read(run):
    return json.loads((run / "robustness.json").read_text())


def test_every_network_is_measured(made):
    table = read(made)
    assert [row["method"] for row in table["rows"]] == ["student", "kd"]
    assert table["options"]["rows"] == 24
    for values in (table["teacher"], *(one for row in table["rows"] for one in row["values"])):
        accuracies = [values[key] for key in table["columns"] if key.startswith(("clean", "fgsm", "pgd", "corrupted"))]
        assert all(0 <= value <= 100 for value in accuracies)
        assert abs(values["clean"] * 24 / 100 - round(values["clean"] * 24 / 100)) < 1e-6  # of 24 images
        assert values["pgd_8/255"] <= values["clean"]
        assert values["nll_scaled"] <= values["nll"] + 0.1
        reached = values["corruptions"]
        assert sorted(reached) == sorted(name for names in KINDS.values() for name in names)
        assert all(len(levels) == 5 for levels in reached.values())
        mean = sum(sum(levels) for levels in reached.values()) / 75
        assert values["corrupted"] == pytest.approx(mean)
    assert table["teacher"]["agreement"] is None
    assert table["teacher"]["pgd_8/255"] > 20  # chance is 10: it was worth attacking
    student, kd = table["rows"]
    assert 0 <= kd["mean"]["cka"] <= 1
    assert student["difference"] is None
    for key in ("clean", "pgd_8/255", "corrupted", "ece"):
        between = [a[key] - b[key] for a, b in zip(kd["values"], student["values"], strict=True)]
        assert kd["difference"][key]["mean"] == pytest.approx(sum(between) / len(between), abs=1e-9)
        assert kd["difference"][key]["verdict"] == "not powered"  # two seeds
    assert any("Our extension" in note for note in table["notes"])


def test_less_is_better_for_errors():
    """A calibration error that falls in each of five seeds is better, not worse."""
    from potstill.suites.table import _differences

    class Seed:
        def __init__(self, seed):
            self.seed = seed

    lone = {seed: {"ece": 10 + seed, "clean": 50 + seed} for seed in range(5)}
    group = [(Seed(seed), {"ece": 5 + seed + 0.1 * (seed % 2), "clean": 55 + seed}) for seed in range(5)]
    found = _differences(group, lone, {"ece": "lower", "clean": "higher"})
    assert found["ece"]["mean"] < 0
    assert (found["ece"]["verdict"], found["clean"]["verdict"]) == ("better", "better")


def test_what_is_measured_is_not_measured_again(shell, run, monkeypatch):
    whole = read(run)
    cut = read(run)
    cut["rows"][1]["seeds"].pop()
    lost = cut["rows"][1]["values"].pop()
    (run / "robustness.json").write_text(json.dumps(cut))
    asked = []
    measure = RobustnessSuite.measure

    def counted(self, network, seen):
        asked.append(network.fingerprint)
        return measure(self, network, seen)

    monkeypatch.setattr(RobustnessSuite, "measure", counted)
    assert shell("evaluate", run, *WORDS)[0] == 0
    assert asked == [lost["fingerprint"]]
    assert read(run)["rows"] == whole["rows"]  # to the last bit
    assert shell("evaluate", run, *WORDS, "--epsilons", "8/255")[0] == 0
    assert len(asked) == 6  # other settings: all five again
    # another method joins what is there
    only = (*WORDS[:6], "--methods", "icd", "--quiet", "--epsilons", "8/255")
    assert shell("evaluate", run, *only)[0] == 0
    assert [row["method"] for row in read(run)["rows"]] == ["student", "kd", "icd"]
    assert len(asked) == 8


def test_the_tables(shell, run, monkeypatch):
    monkeypatch.setattr(robustness, "corrupt", None)  # nothing is measured again
    status, out, err = shell("evaluate", run, *WORDS[:-1])
    assert status == 0, err
    for text in (
        "top-1 accuracy in percent under attack",
        "PGD-3 8/255",
        "Brier at T",
        "difference to the lone student",
    ):
        assert text in out
    assert "Sarfraz et al. 2020" in " ".join(out.split())
    markdown = (run / "robustness.md").read_text()
    assert "| kd |" in markdown or "| kd " in markdown
    assert markdown.count("\n### ") == 4
    status, out, err = shell("evaluate", run, *WORDS, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["rows"] == read(run)["rows"]


def test_the_report_shows_it(run):
    page = write_report(run).read_text()
    for text in ("Robustness, calibration and likeness", "Under attack: PGD-3", "Corruption by corruption"):
        assert text in page
    assert page.count("difference to the lone student, paired") >= 1
    for key in ("attack-fgsm", "attack-pgd", "severity", "corruptions"):
        assert f'data-for="chart-{key}-0"' in page


def test_smoke_is_small(shell, run):
    status, out, _ = shell("evaluate", run, "--suite", "robustness", "--smoke", "--methods", "kd", "--json", "--quiet")
    assert status == 0
    assert json.loads(out)["options"]["rows"] == 32


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "--suite", "robustnes"), "did you mean 'robustness'?"),
        (("run", "--epsilons", "0"), "epsilon must lie in (0, 1]"),
        (("run", "--epsilons", "8"), "epsilon must lie in (0, 1], in pixels of [0, 1] (8/255, say), got 8"),
        (("run", "--epsilons", "8/0"), "epsilon '8/0' is no number"),
        (("run", "--epsilons", "8/255", "16/510"), "each once"),
        (("run", "--rows", "0"), "rows must be at least 1"),
        (("run", "--fit-fraction", "1"), "fit_fraction must lie between 0 and 1"),
        (("run", "--steps", "0"), "steps and step_size must be positive"),
        (("run", "--epsilon", "8/255"), "did you mean '--epsilons'"),
        (("run", "--methods", "kdd"), "did you mean 'kd'"),
        (("run", "--data.root", "nowhere"), "nowhere"),
        (("empty",), "student"),
    ],
)
def test_what_is_wrong_is_said(shell, run, words, says):
    (run.parent / "empty").mkdir()
    (run.parent / "empty" / "recipe.json").write_text(json.dumps({"recipe": {"data": {"name": "digits"}}}))
    before = (run / "robustness.json").read_bytes()
    status, out, err = shell("evaluate", *(words if "--suite" in words else (*words, "--suite", "robustness")))
    assert (status, out) == (1, "")
    assert says in err
    assert (run / "robustness.json").read_bytes() == before


def test_a_damaged_table_is_named(shell, run):
    (run / "robustness.json").write_text("{")
    status, _, err = shell("evaluate", run, *WORDS[:-1])
    assert status == 1
    assert "robustness.json cannot be read" in err
    with pytest.raises(ValueError, match=r"robustness\.json: not JSON"):
        write_report(run)


def test_data_that_moved_is_asked_for(shell, run):
    said = json.loads((run / "recipe.json").read_text())
    said["recipe"]["data"] |= {"name": "mine", "root": "/gone/images"}
    (run / "recipe.json").write_text(json.dumps(said))
    status, _, err = shell("evaluate", run, *WORDS[:-1])
    assert status == 1
    assert "trained on the images in /gone/images, which is not there; say where they are: --data.root FOLDER" in err
