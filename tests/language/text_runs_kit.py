"""A world of short sentences with a tiny student and a tiny teacher, in which the tests of text methods train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from bpe import SENTENCES, bpe

from potstill.cell import assemble
from potstill.examples import Examples, source
from potstill.language.encode import encode
from potstill.language.generation import Ends
from potstill.language.loader import TextLoader, batches, first
from potstill.language.models import LanguageModel, build
from potstill.language.texts import Texts
from potstill.language.vocabulary import real
from potstill.methods import parse
from potstill.precision import Precision
from potstill.recipe import Fit
from potstill.tasks.language import Language
from potstill.types import DataInfo

FIT = Fit(epochs=2, batch_size=8, optimizer="adamw", lr=3e-3, schedule="constant", checkpoint_steps=1, clip=1.0)
STUDENT = LanguageModel("llama", layers=1, width=16, heads=2, context=32)
TEACHER = LanguageModel("llama", layers=1, width=32, heads=2, context=32)
ROWS, HELD = 24, 8


def texts(rows, split, answered=True):
    """Who does what, and then to whom and where: the prompts of eight words and fewer, in a mixed order."""
    sentences = np.random.default_rng(0).permutation(SENTENCES)[rows].tolist()
    cuts = [sentence.index(" ", 6) for sentence in sentences]
    prompts = [sentence[:cut] for sentence, cut in zip(sentences, cuts, strict=True)]
    responses = [sentence[cut:] for sentence, cut in zip(sentences, cuts, strict=True)]
    references = [[response] for response in responses]
    where = "row {}".format
    return Texts(prompts, responses if answered else None, references, "sentences", split, np.arange(len(rows)), where)


class World:
    """Texts as tokens, and engines that learn from them."""

    def __init__(self, answered=True):
        self.tokenizer = bpe(pad_token="</s>")
        self.train = encode(texts(range(ROWS), "train", answered), self.tokenizer)
        self.valid = encode(texts(range(ROWS, ROWS + HELD), "valid"), self.tokenizer)
        self.ends = Ends((self.train.end,), self.train.pad)
        self.task = Language(vocabulary=real(self.tokenizer), ends=self.ends, longest=10, tokenizer=self.tokenizer)
        self.known = None

    def network(self, spec, seed):
        return build(spec, self.tokenizer, seed)

    def student(self):
        return self.network(STUDENT, 0)

    def teacher(self):
        module = self.network(TEACHER, 1)
        if self.known is not None:
            module.load_state_dict(self.known)
        return module

    def frozen(self, module, precision=None):
        probe = first(self.train, 4)
        return source(module, probe, trained=False, preprocess=None, precision=precision or Precision(), task=self.task)

    def examples(self, fit=FIT, rank=0, world=1, tokens=None):
        size = None if tokens else fit.batch_size
        loader = TextLoader(self.train, size, tokens=tokens, seed=3, rank=rank, world=world)
        held = lambda: batches(self.valid, 32)  # noqa: E731
        return Examples(
            loader, DataInfo(len(self.train), loader.batch_size), first(self.train, 4), held, task=self.task
        )

    def engine(self, text, *, folder=None, on_step=None, fit=FIT, student=None, teacher=None, precision=None, **kw):
        """As a command assembles it."""
        method = parse(text)
        heard = teacher if teacher is not None else self.frozen(self.teacher(), precision)
        return assemble(
            student or self.student(),
            heard if method.needs_teacher else None,
            method,
            self.examples(fit, **kw),
            fit,
            precision=precision,
            folder=folder,
            on_step=on_step,
        )

    def taught(self, epochs=8):
        """The same world, whose teacher has read the sentences."""
        fit = replace(FIT, epochs=epochs, lr=1e-2)
        reader = self.engine("student", fit=fit, student=self.network(TEACHER, 1))
        reader.run()
        self.known = reader.student.state_dict()
        return self


def weights(run):
    return {name: value.clone() for name, value in run.system.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
