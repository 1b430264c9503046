"""The recipe that runs when none is named: handwritten digits, on a laptop's CPU, in about a minute."""

from __future__ import annotations

from potstill.data import Data
from potstill.recipe import Fit, Network, Recipe


def recipe(smoke: bool = False) -> Recipe:
    """200 training images of 8x8 pixels (scikit-learn's digits), a student of 5,000 parameters, five seeds."""
    epochs = 2 if smoke else 40
    return Recipe(
        title="Handwritten digits: does a teacher help a student of 5,000 parameters?",
        data=Data(name="digits", augment="crop"),
        teacher=Network("small_cnn", width=32, depth=2),
        student=Network("small_cnn"),
        methods=("student", "kd", "icd", "icd+kd"),
        seeds=2 if smoke else 5,
        fit=Fit(epochs=epochs, batch_size=20, lr=0.05, schedule="cosine"),
    )
