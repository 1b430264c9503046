"""The run-time check of jaxtyping's shapes, which `conftest.py` switches on."""

from typing import get_args

import jaxtyping
from beartype import beartype
from torch import Tensor


def only_shapes(function):
    """Beartype, for tensors alone: what a constructor refuses is its own to say, as users see it.

    `function` is a copy of the signature that jaxtyping makes for the check.
    """
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _of_tensors(hint)}
    return beartype(function)


def _of_tensors(hint) -> bool:
    kinds = (hint, *get_args(hint))
    return any(isinstance(kind, type) and issubclass(kind, (Tensor, jaxtyping.AbstractArray)) for kind in kinds)
