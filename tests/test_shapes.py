"""The tests check the shapes that signatures promise; outside of them nothing is checked and nothing is slowed."""

import os
import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from potstill.functional import forward_kl, mean_of_rest
from potstill.hashing import hash_index
from potstill.objectives import ICD, KD, CrossEntropy, FitNet


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: forward_kl(torch.zeros(2, 3), torch.zeros(3, 3)),
        lambda: forward_kl(torch.zeros(2, 1), torch.zeros(2, 3)),
        lambda: mean_of_rest(torch.tensor(1.0)),
        lambda: hash_index(torch.zeros(3), 0),
        lambda: KD()(torch.zeros(2, 3), torch.zeros(2, 4)),
        lambda: ICD(4, 4)(torch.zeros(5, 4), torch.zeros(6, 4)),
        lambda: ICD(4, 4)(torch.zeros(5, 1, 4), torch.zeros(5, 4)),
        lambda: FitNet((2, 3, 4, 4), (2, 3, 4, 4))(torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4)),
        lambda: CrossEntropy()(torch.zeros(2, 3), None, label=torch.zeros(3, dtype=torch.int64)),
        lambda: CrossEntropy()(torch.zeros(2, 3), None, label=torch.zeros(2)),
    ],
)
def test_a_wrong_shape_raises(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_one_letter_is_one_size():
    assert forward_kl(torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)).shape == (2, 5)


DOCTESTS = """
import doctest, importlib, pkgutil, sys
import potstill
failed = ran = 0
for module in pkgutil.walk_packages(potstill.__path__, "potstill."):
    if not module.name.endswith("__main__"):
        result = doctest.testmod(importlib.import_module(module.name), optionflags=doctest.NORMALIZE_WHITESPACE)
        failed, ran = failed + result.failed, ran + result.attempted
print(ran)
sys.exit(bool(failed))
"""


def test_examples_in_docstrings():
    """In a process of their own: a function that is wrapped for the check of shapes hides its examples."""
    command = [sys.executable, "-W", "error", "-c", DOCTESTS]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 20
