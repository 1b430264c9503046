"""Random numbers without history: a hash of what they belong to.

Augmentation, negatives and dropout must not depend on which batch came before, so that a killed run resumes with
the same bits and any split over ranks sees the same examples. Every random choice is therefore a function of
(seed, epoch or step, sample index, a name). The mixer is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import zlib

from jaxtyping import Float64, Int64
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def hash_int(*salts: int | str) -> int:
    """A non-negative 63-bit integer, equal on every machine, for seeding a generator on the host."""
    state = 0
    for salt in salts:
        number = zlib.crc32(salt.encode()) if isinstance(salt, str) else salt
        state = _mix((state + (number & _MASK) * _GAMMA + _GAMMA) & _MASK)
    return state >> 1


def hash_index(index: Int64[Tensor, "*shape"], *salts: int | str) -> Int64[Tensor, "*shape"]:
    """A non-negative 63-bit integer for each entry of `index`, computed where the tensor lies.

    >>> import torch
    >>> hash_index(torch.tensor([7, 8]), 0, "crop")[1] == hash_index(torch.tensor([8]), 0, "crop")[0]
    tensor(True)
    """
    start = _signed(hash_int(*salts) * 2 + 1)
    state = index * _signed(_GAMMA) + start  # int64 arithmetic wraps modulo 2**64
    state = (state ^ _shift(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shift(state, 27)) * _signed(_MIX_2)
    return _shift(state ^ _shift(state, 31), 1)


def uniform_int(index: Int64[Tensor, "*shape"], high: int, *salts: int | str) -> Int64[Tensor, "*shape"]:
    """A number in [0, high) for each entry of `index` (the bias of the modulus is below high / 2**63)."""
    return hash_index(index, *salts) % high


def uniform(index: Int64[Tensor, "*shape"], *salts: int | str) -> Float64[Tensor, "*shape"]:
    """A number in [0, 1) for each entry of `index`, a multiple of 2**-53."""
    return (hash_index(index, *salts) >> 10).double() * 2.0**-53


def _shift(value: Tensor, by: int) -> Tensor:
    # int64 shifts are arithmetic: clear the copies of the sign bit.
    return (value >> by) & ((1 << (64 - by)) - 1)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
