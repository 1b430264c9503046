"""What schemes for language models ask of a scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.errors import did_you_mean
from potstill.language.generation import Sampling
from potstill.language.outside import ByVllm
from potstill.language.writers import Alone, lasting
from potstill.scheme import Scene
from potstill.tasks.language import Language
from potstill.types import MAIN


def plain(scene: Scene, method: str, answered: bool = False) -> Language:
    """The data's own kind of example, which must be texts; with `answered`, texts with responses.

    Raises ValueError for other data, and for a teacher that cannot be asked about texts that are written on the way.
    """
    teacher = scene.teacher
    if teacher.module is None and not getattr(teacher, "answers_new_texts", False):
        raise ValueError(
            f"{method} asks the teacher about texts that are written while the student learns, and a "
            f"{type(teacher).__name__} knows the given ones only; use the live network, or a method that learns from "
            "the data set (forward_kl)"
        )
    task = scene.examples.task
    if not isinstance(task, Language) or task.ends is None:
        raise ValueError(f"{method} lets language models write, and the data of this run is no text with a prompt")
    label = scene.examples.probe.main.label
    if answered and (label is None or not label.shape[1]):
        raise ValueError(
            f"{method} also learns from the data's own responses, and the data has prompts only; take on_policy, or "
            "skd(share=1)"
        )
    return task


def columns(task: Language) -> int | None:
    """How many columns of the student's logits are tokens."""
    return task.vocabulary.get(MAIN) if isinstance(task.vocabulary, Mapping) else task.vocabulary


def alone(scene: Scene, who: str, method: str, options: Any) -> Alone:
    """One network writes, as a scheme's options writer, temperature, top_p, top_k and tokens say.

    Raises ValueError for an unknown writer.
    """
    task, kinds = plain(scene, method), {"own": Alone, "vllm": ByVllm}
    if options.writer not in kinds:
        raise ValueError(f"{method}: unknown writer {options.writer!r}; {did_you_mean(options.writer, kinds)}")
    sampling = Sampling(options.temperature, options.top_p, options.top_k)
    return kinds[options.writer](who, method, task.ends, lasting(sampling, options.tokens, task.longest), columns(task))
