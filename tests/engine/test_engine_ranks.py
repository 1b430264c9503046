"""Two processes under torchrun: the same gradients, statistics and checkpoints. The work is in ranks_worker.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_kit import make
from kill_worker import remains
from ranks_worker import BATCHES, BLOCKS, FIRST, TERMS
from safetensors.torch import load_file
from split_cases import CASES, Seen, compare, expect, observe

from potstill import checkpoint

WORKER = Path(__file__).with_name("ranks_worker.py")


def torchrun(folder, *more):
    """(exit status, everything printed) of two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "--monitor-interval=0.1", str(WORKER), str(folder), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks wrote, and what they printed before one of them was killed."""
    folder = tmp_path_factory.mktemp("ranks")
    status, printed = torchrun(folder)
    before, done, _ = printed.partition(FIRST)
    assert done, printed
    assert status != 0
    return folder, before


@pytest.fixture(scope="module")
def found(ranks):
    """The observations of each rank."""
    folder, _ = ranks
    read = [torch.load(folder / f"gradients{rank}.pt", weights_only=True) for rank in range(2)]
    return [{key: Seen(**value) for key, value in one.items()} for one in read]


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_same(name, found):
    """On both ranks: every gradient, the reported means (of all ranks), and buffers in data order."""
    reference = expect(name, observe(name, "float64", None).draws)
    for one in found:
        for (case, precision, _), seen in one.items():
            if case == name:
                compare(seen, reference, {"float64": 1e-10, "float32": 1e-5}[precision])


def read(path):
    return torch.load(path, weights_only=True)


def close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_same_when_weights_are_sharded(name, ranks):
    reference = expect(name, observe(name, "float64", None).draws)
    for number in range(2):
        for (case, _), seen in read(ranks[0] / f"sharded{number}.pt").items():
            if case == name:
                compare(Seen(**seen), reference, 1e-10)


def test_sharded_run(ranks):
    """AdamW, clipping, moving average: the weights of DDP. Stopped and gone on with, sharded again or not, too."""
    folder, _ = ranks
    names = ("adamw", "divided", "divided-divided", "divided-whole", "whole-divided")
    whole, *others = (load_file(folder / name / "student.safetensors") for name in names)
    for found in others:
        # The gradient of a bias in front of batch norm is rounding alone, and Adam makes whole steps of that.
        close(found | {name: whole[name] for name in ("conv.bias", "bn.running_mean")}, whole, 1e-5)
    assert remains(folder / "divided-divided") == remains(folder / "divided")


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_gathered_one_by_one(name, ranks):
    for number in range(2):
        found = read(ranks[0] / f"blocks{number}.pt")
        close(found[name, True], found[name, False], 1e-10)


def test_ranks_hold_the_same_buffers(found):
    for key, one in found[0].items():
        for name, buffer in one.buffers.items():
            assert torch.equal(buffer, found[1][key].buffers[name]), (key, name)


def test_nothing_is_printed(ranks):
    """Warnings are errors in the worker; this is for what PyTorch's C++ writes past Python."""
    assert not ranks[1].strip()


def test_statistics_are_those_of_the_first_rank(ranks):
    one, two = (torch.load(ranks[0] / f"statistics{rank}.pt", weights_only=True) for rank in range(2))
    mean = "student.middle.running_mean"
    assert not torch.equal(one["trained"][mean], two["trained"][mean])
    for name, value in one["trained"].items():
        assert torch.equal(one["evaluated"][name], value), name
        assert torch.equal(two["evaluated"][name], value), name


def test_dropout_differs_between_ranks_and_is_replayed(ranks):
    one, two = (torch.load(ranks[0] / f"masks{rank}.pt", weights_only=True) for rank in range(2))
    for masks in (one, two):
        assert len(masks) == 4
        assert all(torch.equal(a, b) for a, b in zip(masks[:2], masks[2:], strict=True))
    assert not torch.equal(one[0], two[0])


def test_reported_means(ranks):
    """Those of one process, on both ranks, whatever was saved on the way."""
    (row,) = make(TERMS, BATCHES).run().history
    for number in range(2):
        (found,) = torch.load(ranks[0] / f"means{number}.pt", weights_only=True)
        assert found["terms"] == pytest.approx(row["terms"], rel=1e-5)
        assert found["loss"] == pytest.approx(row["loss"], rel=1e-5)


def test_interrupted(ranks):
    """Ctrl-C on one rank; what both did then is asserted in the worker, and the run ends with the same bits."""
    assert remains(ranks[0] / "interrupted") == remains(ranks[0] / "sgd")


def test_killed(ranks):
    """One rank was killed and torchrun ended the other; started again, they end with the same bits."""
    folder, _ = ranks
    assert (folder / "killed" / checkpoint.STATE).exists()
    assert not (folder / "killed" / "student.safetensors").exists()
    status, printed = torchrun(folder, "resume")
    assert status == 0, printed
    assert remains(folder / "killed") == remains(folder / "adamw")
