"""Killed anywhere, same bits. Processes come from a fork server, which has PyTorch loaded, so a run takes moments."""

import multiprocessing
import os
import random
import shutil
import signal
import time

import kill_worker
import pytest
import torch
from kill_worker import FITS, INTERRUPTED, SECONDS, engine, remains, slowly, train, train_until, train_until_file

from potstill import checkpoint


@pytest.fixture(scope="module")
def start():
    """Runs a function of `kill_worker` in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["potstill.cell", "potstill.student", "accelerate", "torch._dynamo", "torch.onnx"])
    running = []

    def begin(target, *args, **kw):
        process = context.Process(target=target, args=args, kwargs=kw)
        process.start()
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """An uninterrupted run of each kind: what it left, and the seconds that it computed."""
    found = {}
    for variant in FITS:
        folder = tmp_path_factory.mktemp(variant)
        process = start(train, folder, variant)
        process.join()
        assert process.exitcode == 0
        found[variant] = remains(folder), float((folder / SECONDS).read_text())
    return found


@pytest.mark.parametrize("variant", FITS)
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(seed, variant, start, whole, tmp_path):
    """Four times in a row, the first time for sure before the end."""
    expected, seconds = whole[variant]
    moments = random.Random(f"{seed} {variant}")
    ends = []
    for _ in range(4):
        process = start(train, tmp_path, variant, resume=True, dies_after=moments.uniform(0.01, 0.6) * seconds)
        process.join()
        ends.append(process.exitcode)
    assert ends[0] == -signal.SIGPROF
    assert set(ends) <= {-signal.SIGPROF, 0}
    process = start(train, tmp_path, variant, resume=True)
    process.join()
    assert process.exitcode == 0
    assert remains(tmp_path) == expected


@pytest.mark.parametrize("step", [1, 3, 6, 7, 23, 24])
def test_killed_after_a_step(step, start, whole, tmp_path):
    """Before the first checkpoint, at one, at the end of an epoch, after it, and at the last steps."""
    process = start(train_until, tmp_path, "adamw", step, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint.exists(tmp_path) == (step > 3)
    process = start(train, tmp_path, "adamw", resume=True)
    process.join()
    assert remains(tmp_path) == whole["adamw"][0]


@pytest.mark.parametrize(
    ("name", "count", "when"),
    [
        ("state.pt", 1, "half"),
        ("state.pt", 3, "half"),
        ("state.pt", 3, "before"),
        ("state.pt", 3, "after"),
        ("state.pt", 9, "after"),
        ("student.safetensors", 1, "before"),
    ],
)
def test_killed_while_writing(name, count, when, start, whole, tmp_path):
    process = start(train_until_file, tmp_path, "sgd", name, count, when)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process = start(train, tmp_path, "sgd", resume=True)
    process.join()
    assert process.exitcode == 0
    assert remains(tmp_path) == whole["sgd"][0]


def test_killed_while_metrics_are_rewritten(start, whole, tmp_path):
    process = start(train_until, tmp_path, "sgd", 20, signal.SIGKILL)
    process.join()
    process = start(train_until_file, tmp_path, "sgd", "metrics.jsonl", 1, "half")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process = start(train, tmp_path, "sgd", resume=True)
    process.join()
    assert remains(tmp_path) == whole["sgd"][0]


@pytest.mark.parametrize("step", [2, 6, 17, 24])
def test_interrupted(step, start, whole, tmp_path):
    """Ctrl-C: the step is finished and saved, and the run goes on from there."""
    process = start(train_until, tmp_path, "sgd", step, signal.SIGINT)
    process.join()
    assert process.exitcode == INTERRUPTED
    position = checkpoint.read(tmp_path)["position"]
    assert position["step"] == step
    process = start(train, tmp_path, "sgd", resume=True)
    process.join()
    assert process.exitcode == 0
    assert remains(tmp_path) == whole["sgd"][0]


def test_interrupted_from_outside(start, whole, tmp_path):
    """By another process, at whatever moment after the first checkpoint that is."""
    process = start(train, tmp_path, "adamw", on_step=slowly)
    while not checkpoint.exists(tmp_path):
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == INTERRUPTED
    process = start(train, tmp_path, "adamw", resume=True)
    process.join()
    assert remains(tmp_path) == whole["adamw"][0]


def test_same_seed_same_bits(start, whole, tmp_path):
    """Without checkpoints between, in a process of its own; and another seed gives another run."""
    same = start(train, tmp_path / "same", "sgd")
    other = start(train, tmp_path / "other", "sgd", seed=1)
    same.join()
    other.join()
    assert remains(tmp_path / "same") == whole["sgd"][0]
    weights, metrics = remains(tmp_path / "other")
    assert weights != whole["sgd"][0][0]
    assert metrics != whole["sgd"][0][1]


def test_a_term_leaves_the_weights_of_the_others_alone():
    few = engine(None, method="icd(width=4)").system.state_dict()
    many = engine(None, method="kd+fitnet+icd(width=4)").system.state_dict()
    heads = {name.split(".", 2)[2]: value for name, value in few.items() if name.startswith("terms.1.")}
    assert len(heads) == 6
    for name, value in heads.items():
        assert torch.equal(many[f"terms.3.{name}"], value), name
    for name, value in few.items():
        if name.startswith("networks."):
            assert torch.equal(many[name], value), name


@pytest.fixture(scope="module")
def stopped(start, tmp_path_factory):
    """The folder of a run that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(train_until, folder, "sgd", 8, signal.SIGKILL)
    process.join()
    return folder


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", 0.3, 0.9, "another file of PyTorch"])
def test_checkpoint_that_cannot_be_read(content, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    path = folder / checkpoint.STATE
    if isinstance(content, float):
        content = path.read_bytes()[: int(content * path.stat().st_size)]
    if isinstance(content, str):
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    before = sorted((p, p.stat().st_size) for p in folder.rglob("*"))
    with pytest.raises(ValueError, match=r"state\.pt cannot be read as a checkpoint.*delete it"):
        engine(folder).run(resume=True)
    assert sorted((p, p.stat().st_size) for p in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fit": kill_worker.replace(FITS["sgd"], epochs=5)}, "a run of 24 steps, this one has 30"),
        ({"method": "icd(width=5)+kd"}, "other networks or terms"),
        ({"method": "kd"}, "other networks or terms"),
    ],
)
def test_checkpoint_of_another_run(changed, message, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    with pytest.raises(ValueError, match=message):
        engine(folder, **changed).run(resume=True)


def test_without_resume_a_run_starts_again(stopped, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    train(folder, "sgd")
    assert remains(folder) == whole["sgd"][0]
