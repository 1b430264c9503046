"""The recipe that runs when none is named: handwritten digits, on a laptop's CPU, in about a minute."""

from __future__ import annotations

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe


def recipe(smoke: bool = False) -> Recipe:
    """200 training images of 8x8 pixels (scikit-learn's digits), a student of 5,000 parameters, five seeds.

    The student takes 120 steps: enough for a good table, too few to get there alone. With 400 steps it reaches 94.6 %
    without a teacher, and there is little left to teach (docs/log.md).
    """
    return Recipe(
        title="Handwritten digits: does a teacher help a student of 5,000 parameters?",
        data=Data(name="digits", augment="crop"),
        teacher=Network("small_cnn", width=32, depth=2),
        student=Network("small_cnn"),
        methods=("student", "kd", "icd", "icd+kd"),
        seeds=2 if smoke else 5,
        fit=Fit(epochs=5 if smoke else 30, batch_size=50, lr=0.1, schedule="cosine"),
    )
