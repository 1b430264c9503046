"""What a cell learns from where texts have labels."""

from __future__ import annotations

import torch

from potstill.examples import Examples
from potstill.language.labelled_loader import LabelledLoader, Tokens
from potstill.ranks import rank, world_size
from potstill.recipe import Fit
from potstill.tasks.text_classify import TextClassify

PROBED, JUDGED = 8, 64
"""Texts of the batch that networks are probed with, and of an evaluation's batches."""


def labelled_examples(
    train: Tokens, valid: Tokens | None, fit: Fit, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Examples:
    """For `potstill.cell.assemble`: a loader of this rank's share, a probe, validation batches, and the task.

        examples = labelled_examples(tokenised(train, tokenizer), tokenised(valid, tokenizer), fit)
        teacher = source(network, examples.probe, trained=False, task=examples.task, …)
        engine = assemble(student, teacher, parse("mixkd"), examples, fit)
        engine.run()

    Raises:
        ValueError: validation labels of another kind than the training labels, or sizes that do not fit.
    """
    if valid is not None and valid.classes != train.classes:
        raise ValueError(
            f"{train.name} has {train.classes or 'no'} classes and {valid.name} {valid.classes or 'none'}; read the "
            "validation data with names=train.names"
        )
    loader = LabelledLoader(
        train, fit.batch_size, seed=seed, device=device, rank=rank(), world=world_size(), drop_last=fit.drop_last
    )
    return Examples(
        loader,
        train.info(fit.batch_size),
        next(train.batches(PROBED, device)),
        None if valid is None else lambda: valid.batches(JUDGED, device),
        lambda: train.batches(JUDGED, device),
        task=TextClassify(),
    )
