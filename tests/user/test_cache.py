"""A teacher that is paid once: potstill cache, then distill with --teacher.cache."""

import json
import os
import shutil
import subprocess
import sys

import pytest

LEAVES = ("--teacher.width", "16", "--fit.epochs", "2", "--precision", "float32")


@pytest.fixture(scope="session")
def weights(good):
    return good / "teacher" / "student.safetensors"


@pytest.fixture
def distilled(shell, weights, tmp_path):
    """`distilled(out, *words)` teaches icd+kd, from live or cached, and gives what came out, byte by byte."""

    def run(out, *words):
        words = ("--method", "icd+kd", "--teacher.checkpoint", weights, *LEAVES, *words, "--quiet", "--out", out)
        status, _, err = shell("distill", "small.py", *words)
        assert status == 0, err
        seeds = sorted((tmp_path / out / "icd+kd").iterdir())
        return [[(s / name).read_bytes() for name in ("student.safetensors", "metrics.jsonl")] for s in seeds]

    return run


@pytest.fixture(scope="session")
def stored(good, weights, tmp_path_factory):
    """A cache of three views, for icd+kd."""
    from potstill.cli import main

    folder = tmp_path_factory.mktemp("stored") / "cache"
    recipe = good.parent / "small.py"
    words = ("--method", "icd+kd", "--teacher.checkpoint", weights, "--views", "3", "--quiet", "--out", folder)
    assert main(["cache", *map(str, (recipe, *words))]) == 0
    return folder


def test_the_same_student_bit_for_bit(stored, distilled, tmp_path):
    """With the live teacher on the same views, every seed; epochs beyond the views begin again with the first."""
    words = ("--seeds", "2", "--fit.epochs", "4")
    live = distilled("live", *words, "--data.views", "3")
    cached = distilled("cached", *words, "--teacher.cache", stored)
    assert live == cached
    assert live[0] != live[1]
    summary = json.loads((tmp_path / "cached" / "summary.json").read_text())
    assert summary["teacher"]["cache"] == str(stored)


def test_a_shuffled_cache_is_a_shuffled_teacher(stored, shell, weights, tmp_path):
    found = []
    for out, words in (("live", ("--data.views", "3")), ("cached", ("--teacher.cache", stored))):
        words = ("--method", "kd~shuffled", "--teacher.checkpoint", weights, *LEAVES, *words, "--quiet", "--out", out)
        assert shell("distill", "small.py", *words)[0] == 0
        found.append((tmp_path / out / "student.safetensors").read_bytes())
    assert found[0] == found[1]


def test_what_it_says(shell, weights, tmp_path):
    words = ("cache", "small.py", "--method", "icd", "--teacher.checkpoint", weights, "--out", "c")
    status, out, _ = shell(*words, "--json")
    assert status == 0
    said = json.loads(out)
    assert {**said, "bytes": 0} == {"cache": "c", "views": 2, "samples": 200, "taps": ["embedding"], "bytes": 0}
    assert said["bytes"] == sum(path.stat().st_size for path in (tmp_path / "c").rglob("*.safetensors"))
    first = (tmp_path / "c" / "view0000" / "shard0000.safetensors").stat().st_mtime_ns
    status, out, _ = shell(*words, "--views", "3")
    assert status == 0
    assert "3 view(s) of 200 images (output, embedding)" in out
    assert (tmp_path / "c" / "view0000" / "shard0000.safetensors").stat().st_mtime_ns == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data.augment", "none"), "differ in augment ('crop', now 'none')"),
        (("--data.data-seed", "1"), "differ in data_seed (0, now 1)"),
        (("--data.train-rows", "100"), "; data ("),
        (("--teacher.mean", "0.5", "--teacher.std", "0.5"), "differ in teacher ("),
        (("--data.views", "4"), "holds 3 view(s) of each sample, 4 are asked for"),
        (("--method", "at"), "source 'teacher' does not give tap 'stage1'"),
        (("--method", "srrl"), "term 'srrl' is built from modules of 'teacher'"),
        (("--method", "ofd"), "term 'ofd' is built from modules of 'teacher'"),
        (("--method", "simkd"), "builds its student from modules of the teacher"),
        (("--student.cache", "c"), "student.cache: the student is trained"),
        (("--teacher.cache", "nowhere"), "nowhere holds no cache (no about.json)"),
    ],
)
def test_what_does_not_fit_is_refused(words, message, stored, shell, weights, nothing_left):
    usual = ("--method", "icd+kd", "--teacher.checkpoint", weights, "--teacher.cache", stored, *LEAVES)
    status, _, err = shell("distill", "small.py", *usual, *words, "--quiet", "--out", nothing_left)
    assert status == 1
    assert message in err


def test_another_teacher_is_refused(stored, shell, good, weights, nothing_left, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    name = next(key for key, value in tensors.items() if value.is_floating_point())
    tensors[name].view(-1)[0] += 1e-3
    save_file(tensors, tmp_path / "other.safetensors")
    usual = ("--method", "kd", "--teacher.cache", stored, *LEAVES, "--quiet", "--out", nothing_left)
    status, _, err = shell("distill", "small.py", *usual, "--teacher.checkpoint", "other.safetensors")
    assert status == 1
    assert "not of this recipe's teacher, data and augmentation; they differ in teacher (" in err
    status, _, err = shell("distill", "small.py", *usual)
    assert status == 1
    assert "has no weights that the cache could be checked against" in err


def test_a_cache_that_is_not_whole_is_refused(stored, shell, weights, nothing_left, tmp_path):
    def tried():
        usual = ("--method", "kd", "--teacher.checkpoint", weights, "--teacher.cache", "c", *LEAVES)
        status, _, err = shell("distill", "small.py", *usual, "--quiet", "--out", nothing_left)
        assert status == 1
        return err

    shutil.copytree(stored, tmp_path / "c")
    shard = tmp_path / "c" / "view0001" / "shard0000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert "shard0000.safetensors cannot be read" in tried()
    shutil.copyfile(tmp_path / "c" / "plain.safetensors", shard)
    assert "belongs to another cache or another place in it" in tried()
    shard.unlink()
    assert "not finished: samples 0 to 199 of view 1 are missing" in tried()
    (tmp_path / "c" / "about.json").write_text('{"teacher": 3')
    assert "cannot be read as a cache" in tried()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "potstill cache needs --out DIR"),
        (("--out", "c", "--views", "0"), "--views must be at least 1, got 0"),
        (("--out", "c", "--jobs", "0"), "--jobs must be at least 1, got 0"),
        (("--out", "c", "--dtype", "bf15"), "--dtype 'bf15' is unknown; did you mean 'bf16'?"),
        (("--out", "c", "--method", "student"), "no method listens to the teacher: student"),
        (("--out", "c", "--method", "ofd"), "method 'ofd': ofd is built from modules of the teacher"),
        (("--out", "c", "--method", "dkd", "--top-k", "3"), "term 'dkd' reads all of the teacher's logits"),
        (("--out", "c", "--method", "icd", "--top-k", "3"), "top_k has nothing to store"),
        (("--out", "c", "--method", "kd", "kd(temperature=2)", "--top-k", "3"), "term 'kd' has temperature 2"),
        (("--out", "c", "--method", "kd", "--top-k", "10"), "top_k is 10 and the teacher answers with 10 classes"),
    ],
)
def test_what_cannot_be_written(words, message, shell, weights, tmp_path):
    status, _, err = shell("cache", "small.py", "--teacher.checkpoint", weights, *words, "--quiet")
    assert status == 1
    assert message in err
    assert not (tmp_path / "c").exists()


def test_a_teacher_without_weights_and_a_folder_of_others(shell, stored, weights, tmp_path):
    status, _, err = shell("cache", "small.py", "--out", "c", "--quiet")
    assert status == 1
    assert "has no weights; give them with --teacher.checkpoint FILE" in err
    words = ("cache", "small.py", "--teacher.checkpoint", weights, "--quiet", "--out")
    status, _, err = shell(*words, ".")
    assert status == 1
    assert "is no cache and not empty" in err
    shutil.copytree(stored, tmp_path / "c")
    status, _, err = shell(*words, "c", "--method", "icd+kd", "--data.augment", "none")
    assert status == 1
    assert "holds another cache; they differ in augment ('crop', now 'none')" in err


def test_the_largest_logits_teach_kd(shell, weights, distilled, tmp_path):
    """At the temperature that they were written for, and no other."""
    words = ("--teacher.checkpoint", weights, "--quiet")
    assert shell("cache", "small.py", *words, "--method", "kd", "--top-k", "4", "--dtype", "bf16", "--out", "c")[0] == 0
    usual = ("distill", "small.py", *words, *LEAVES, "--teacher.cache", "c", "--out", "run")
    status, _, err = shell(*usual, "--method", "kd(temperature=2)")
    assert status == 1
    assert "temperature 2, and the mass of the classes that the cache does not hold is that at temperature 4.0" in err
    assert shell(*usual, "--method", "kd")[0] == 0


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_write_the_same_files(stored, shell, weights, tmp_path):
    words = ("--method", "icd+kd", "--teacher.checkpoint", weights, "--views", "3", "--out", "c", "--jobs", "2")
    status, _, err = shell("cache", "small.py", *words, "--quiet")
    assert (status, err) == (0, "")
    assert contents(tmp_path / "c") == contents(stored)


def test_two_ranks_go_on_with_what_one_process_has_left(stored, weights, good, tmp_path):
    """One rank lacks view 0, the other view 1, and beside that lies half of a file of a process that was killed."""
    shutil.copytree(stored, tmp_path / "c")
    for view in (0, 1):
        (tmp_path / "c" / f"view000{view}" / "shard0000.safetensors").unlink()
    (tmp_path / "c" / "view0001" / ".shard0000.safetensors.77.tmp").write_bytes(b"half")
    words = ("--method", "icd+kd", "--teacher.checkpoint", weights, "--views", "3", "--out", tmp_path / "c", "--json")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--monitor-interval=0.1", "-m")
    done = subprocess.run(
        [sys.executable, *torchrun, "potstill", "cache", good.parent / "small.py", *words, "--quiet"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["views"] == 3
    assert contents(tmp_path / "c") == contents(stored)
