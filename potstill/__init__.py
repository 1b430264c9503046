"""Potstill: knowledge distillation for PyTorch.

    student = potstill.distill(teacher, student, train_loader, valid=valid_loader, method="icd+kd", epochs=30)

Importing defines names and does nothing else; the heavy parts are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from potstill.api import distill
    from potstill.caching import Cache
    from potstill.data import Data, Images, Preprocess
    from potstill.grid import Grid
    from potstill.language.api import distill as distill_text
    from potstill.loop import Interrupted
    from potstill.methods import parse
    from potstill.recipe import Fit, Network, Recipe
    from potstill.student import Predictor, load
    from potstill.terms import Spec, Term
    from potstill.types import Objective

__version__ = "0.1.0"

_HOMES = {
    "Cache": "caching",
    "Data": "data",
    "Fit": "recipe",
    "Grid": "grid",
    "Images": "data",
    "Interrupted": "loop",
    "Network": "recipe",
    "Objective": "types",
    "Predictor": "student",
    "Preprocess": "data",
    "Recipe": "recipe",
    "Spec": "terms",
    "Term": "terms",
    "distill": "api",
    "distill_text": "language.api:distill",
    "load": "student",
    "parse": "methods",
}

__all__ = [
    "Cache",
    "Data",
    "Fit",
    "Grid",
    "Images",
    "Interrupted",
    "Network",
    "Objective",
    "Predictor",
    "Preprocess",
    "Recipe",
    "Spec",
    "Term",
    "distill",
    "distill_text",
    "load",
    "parse",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'potstill' has no attribute {name!r}")
    home, _, there = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"potstill.{home}"), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
