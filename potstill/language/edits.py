"""More texts from the ones there are: words deleted and swapped. Ours, in the manner of EDA.

Wei and Zou 2019 (arXiv:1901.11196) also insert and replace words by synonyms, which needs a thesaurus.
"""

from __future__ import annotations

import torch

from potstill.hashing import hash_int, uniform
from potstill.language.labelled import Labelled


def edited(texts: Labelled, copies: int = 1, *, deletion: float = 0.1, swap: float = 0.1, seed: int = 0) -> Labelled:
    """`copies` of every text with its label, copy by copy: `texts.with_rows(edited(texts))` enlarges a data set.

    Each word is left out with probability `deletion` (one always stays); of those that stay, each trades places with
    another one with probability `swap`. Words are what white space divides. What happens is a function of the seed, the
    copy and the word's place in the data.

    Raises:
        ValueError: fewer than one copy, or probabilities outside of [0, 1).
    """
    if copies < 1:
        raise ValueError(f"edited: at least one copy of each text is made, got copies={copies}")
    for name, value in (("deletion", deletion), ("swap", swap)):
        if not 0 <= value < 1:
            raise ValueError(f"edited: {name} is a probability in [0, 1), got {value}")
    sides = [side for side in (texts.first, texts.second) if side is not None]
    made: list[list[str]] = [[] for _ in sides]
    for copy in range(copies):
        for number, side in enumerate(sides):
            made[number] += _edited(side, deletion, swap, hash_int(seed, "edit", copy, number))
    second = tuple(made[1]) if len(made) > 1 else None
    return Labelled(tuple(made[0]), second, texts.labels.repeat(copies), texts.names, f"{texts.name}, edited")


def _edited(side: tuple[str, ...], deletion: float, swap: float, seed: int) -> list[str]:
    rows = [text.split() for text in side]
    place = torch.arange(sum(map(len, rows)))
    stays, moves, target = (uniform(place, seed, what).tolist() for what in ("stays", "moves", "target"))
    found, begin = [], 0
    for words in rows:
        numbers = range(begin, begin + len(words))
        begin += len(words)
        kept = [number for number in numbers if stays[number] >= deletion]
        kept = kept or [max(numbers, key=stays.__getitem__)]
        order = list(kept)
        for here, number in enumerate(kept):
            if moves[number] < swap:
                there = int(target[number] * len(order))
                order[here], order[there] = order[there], order[here]
        found.append(" ".join(words[number - numbers.start] for number in order))
    return found
