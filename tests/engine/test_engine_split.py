"""Any split, one gradient: micro-batches in one process (ranks: test_engine_ranks.py)."""

import pytest
from split_cases import CASES, compare, expect, observe

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def reference():
    """The plain loop's answer, computed once for a case."""
    kept = {}

    def find(name):
        if name not in kept:
            kept[name] = expect(name, observe(name, "float64", None).draws)
        return kept[name]

    return find


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("micro", [None, 7, 4, 1])
@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_same(name, micro, precision, reference):
    compare(observe(name, precision, micro), reference(name), TOLERANCE[precision])
