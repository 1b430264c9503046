"""Random numbers without history: even, reproducible, and the property of a sample, not of its batch."""

import subprocess
import sys

import pytest
import torch
from scipy import stats

from potstill.hashing import hash_index, hash_int, uniform_int


class SplitMix64:
    """The published generator, with a state, in plain integers."""

    def __init__(self, seed: int):
        self.state = seed % 2**64

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)


def test_published_stream():
    """The generator's known answers for seed 0, without their last bit."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    plain = SplitMix64(0)
    assert [plain.next() for _ in known] == known
    assert [hash_int(n) for n in range(3)] == [number // 2 for number in known]


@pytest.mark.parametrize("salts", [(0,), (1, "draw", 5, 2**62), ("crop", -3)])
def test_tensors_give_the_numbers_of_plain_integers(salts):
    """Products of 64 bits wrap in tensors; plain integers of any size say what must come out."""
    indices = [0, 1, 2, 49_999, 2**31, 2**40 + 7, 2**62]
    stream = {}
    for index in indices:
        skipped = SplitMix64(2 * hash_int(*salts) + 1 + (index - 1) * 0x9E3779B97F4A7C15)
        stream[index] = skipped.next() // 2
    assert hash_index(torch.tensor(indices), *salts).tolist() == list(stream.values())


def test_equal_in_every_process():
    """Python's own hash of a string changes from process to process."""
    code = (
        "import torch, potstill.hashing as h; print(h.hash_int('kd', 3), h.hash_index(torch.tensor([7]), 'kd').item())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [int(number) for number in said] == [hash_int("kd", 3), hash_index(torch.tensor([7]), "kd").item()]


def test_a_sample_keeps_its_number_in_any_batch():
    index = torch.arange(100)
    whole = hash_index(index, 1, "draw")
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hash_index(index[order], 1, "draw"), whole[order])
    assert torch.equal(torch.cat([hash_index(part, 1, "draw") for part in index.split(7)]), whole)
    assert torch.equal(hash_index(index.view(20, 5).T, 1, "draw"), whole.view(20, 5).T)
    assert torch.equal(index, torch.arange(100))


def test_salts_and_their_order_matter():
    numbers = [
        hash_int(*s) for s in [(0,), (1,), ("1",), (0, 0), (0, 1), (1, 0), ("a", "b"), ("b", "a"), ("ab",), (-1,)]
    ]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)


def many(kind):
    if kind == "samples of a step":
        return hash_index(torch.arange(40_000), 3, "draw", 17)
    if kind == "steps of a sample":
        return torch.cat([hash_index(torch.tensor([12]), 3, "draw", step) for step in range(8_000)])
    if kind == "seeds on the host":
        return torch.tensor([hash_int(seed, "augment") for seed in range(40_000)])
    return hash_index(torch.arange(40_000) * 1024, 0)


@pytest.mark.parametrize("kind", ["samples of a step", "steps of a sample", "seeds on the host", "every 1024th sample"])
def test_even(kind):
    numbers = many(kind)
    assert numbers.min() >= 0
    assert len(numbers.unique()) == len(numbers)
    for values in (numbers % 17, numbers % 64, numbers >> 57):
        assert stats.chisquare(torch.bincount(values).numpy()).pvalue > 1e-4
    bits = torch.stack([(numbers >> bit) & 1 for bit in range(63)]).double().mean(1)
    assert (bits - 0.5).abs().max() < 5 * 0.5 / len(numbers) ** 0.5


def test_neighbours_are_independent():
    """Steps, seeds and names next to each other give pairs that fill a table evenly."""
    index = torch.arange(40_000)
    usual = uniform_int(index, 8, 0, "draw", 5)
    for other in (
        uniform_int(index, 8, 0, "draw", 6),
        uniform_int(index, 8, 1, "draw", 5),
        uniform_int(index, 8, 0, "drawn", 5),
        uniform_int(index + 1, 8, 0, "draw", 5),
    ):
        assert stats.chisquare(torch.bincount(usual * 8 + other, minlength=64).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("high", [1, 2, 9, 1000])
def test_uniform_int(high):
    values = uniform_int(torch.arange(50_000), high, 0, "crop")
    counts = torch.bincount(values)
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_agrees():
    index = torch.arange(1000)
    assert torch.equal(hash_index(index.cuda(), 1, "draw").cpu(), hash_index(index, 1, "draw"))
