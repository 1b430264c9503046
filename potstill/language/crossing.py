"""A student and a teacher of two tokenizers: the same text, cut by each for itself.

Letters in shapes: B samples, R tokens of the response by the student's tokenizer, Q by the teacher's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from potstill.language.alignment import Aligned, Cutter, groups
from potstill.language.encode import prefix
from potstill.language.pieces import matched
from potstill.language.sequences import Sequences
from potstill.language.views import PROMPT, PROMPT_MASK, padded, teaching
from potstill.language.vocabulary import real
from potstill.types import MAIN, Batch, DataInfo, Progress, Source, Stateful, View

TEACHER = "teacher"
"""The view with the teacher's tokens; `gold` and `uld` read `teacher:output@teacher`."""


class CrossTokenizer:
    """Gives the teacher's view of every batch: prompt and response as the teacher's tokenizer cuts them.

    The student's view keeps its tokens, whoever chose them: the data set's, or those that `sequences` wrote. Its
    extras become those that `gold` and `uld` need: `group` `[B, R]`, `teacher_group`, `teacher_label` and
    `teacher_mask` `[B, Q]`. `prompts` are what the teacher is asked, by sample number (in its own chat template, say):
    texts, or a function that gives the teacher's ids; without them it is the student's prompt as plain text, behind
    what the teacher's tokenizer begins a text with. `stop` and `teacher_stop` are ids that end a text, the teacher's
    first one is what it would end it with. `context` is how many tokens the teacher reads: where a response is longer
    than what the prompt leaves, the teacher is shown its beginning, and the rest is in no group.

    Where a run has sources and none is a teacher, nobody would read that view, and it is not made.

    Task and losses need whole logits: `Language(crossing, lazy=False, vocabulary=crossing.vocabulary)`. `vocabulary`
    counts the student's tokens, `widths` those of views in other tokens. A scheme in which the teacher writes or judges
    single tokens (skd, seqkd) would show it the student's ids, and is not for two tokenizers; on_policy is.
    """

    def __init__(
        self,
        student_tokenizer: Any,
        teacher_tokenizer: Any,
        sequences: Sequences | None = None,
        *,
        prompts: Sequence[str] | Callable[[int], Any] | None = None,
        stop: Sequence[int] | None = None,
        teacher_stop: Sequence[int] | None = None,
        context: int | None = None,
    ):
        self.student, self.teacher = Cutter(student_tokenizer, stop), Cutter(teacher_tokenizer, teacher_stop)
        self.sequences, self.prompts, self.context = sequences, prompts, context
        self.vocabulary = real(student_tokenizer)
        self.widths: Mapping[str, int] = {TEACHER: real(teacher_tokenizer)}
        self._tokens, self._grouped = 0, 0

    def around(self, sequences: Sequences | None) -> CrossTokenizer:
        """The same for responses that somebody else writes; None: the data's. It counts for itself."""
        other = copy.copy(self)
        other.sequences, other._tokens, other._grouped = sequences, 0, 0
        return other

    @cached_property
    def matched(self) -> Any:
        """Tokens that both vocabularies have."""
        return matched(self.student.tokenizer, self.teacher.tokenizer)

    def info(self, data: DataInfo) -> DataInfo:
        """With the tokens that both vocabularies have, for `gold(hybrid=True)`."""
        return replace(data, matched=self.matched)

    def __call__(self, batch: Batch, sources: Mapping[str, Source], progress: Progress, seed: int) -> Batch:
        if self.sequences is not None:
            batch = self.sequences(batch, sources, progress, seed)
        if sources and TEACHER not in sources:
            return batch
        main = batch.main
        assert main.label is not None
        assert main.mask is not None
        texts, ended, mine = self.student.read(main.label, main.mask)
        theirs, prompts = self.teacher.cut(texts, ended), self._asked(main)
        if self.context is not None:
            theirs = theirs.within([self.context - len(prompt) for prompt in prompts])
        found = Aligned(mine, theirs, *groups(mine, theirs))
        self._tokens += int(mine.mask.sum())
        self._grouped += int((found.group >= 0).sum())
        asked = padded(prompts, left=True)
        device = main.index.device
        extras = {name: value.to(device) for name, value in found.extras.items()}
        view = replace(main, extras={**main.extras, **extras})
        prompt, prompt_mask, response, mask = (part.to(device) for part in (*asked, theirs.ids, theirs.mask))
        heard = teaching(prompt, prompt_mask, response, mask, main.index)
        return batch.with_view(MAIN, view).with_view(TEACHER, heard)

    def alone(self, batch: Batch) -> Batch:
        """What the teacher sees of a batch, as the only view: to look at it with, or to evaluate it on."""
        return Batch({MAIN: self.around(None)(batch, {}, Progress(0, 0, 1), 0).views[TEACHER]})

    def report(self) -> dict[str, float]:
        """`grouped`: the share of the student's tokens that cover the same bytes as some of the teacher's."""
        found = {} if self.sequences is None else self.sequences.report()
        if self._tokens:
            found = {**found, "grouped": self._grouped / self._tokens}
        self._tokens = self._grouped = 0
        return found

    def state_dict(self) -> dict[str, Any]:
        inner = self.sequences.state_dict() if isinstance(self.sequences, Stateful) else {}
        return {"tokens": self._tokens, "grouped": self._grouped, "sequences": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tokens, self._grouped = state["tokens"], state["grouped"]
        if isinstance(self.sequences, Stateful):
            self.sequences.load_state_dict(state["sequences"])

    def _asked(self, main: View) -> list[list[int]]:
        """The prompts in the teacher's tokens."""
        numbers = main.index.tolist()
        prompts: Any = self.prompts
        if callable(prompts):
            return [list(prompts(number)) for number in numbers]
        if prompts is not None:
            return self._cut([prompts[number] for number in numbers])
        ids, mask = main.extras[PROMPT].cpu().numpy(), main.extras[PROMPT_MASK].cpu().numpy()
        rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        texts = self.student.tokenizer.batch_decode(rows, skip_special_tokens=True)
        first = prefix(self.teacher.tokenizer)
        asked = [[*first, *row] for row in self._cut(texts)]
        if not all(asked):
            raise ValueError(
                f"the prompt of sample {int(main.index[asked.index([])])} has no token for the teacher: it is empty, "
                "and the teacher's tokenizer begins a text with nothing; give it prompts of its own"
            )
        return asked

    def _cut(self, texts: list[str]) -> list[list[int]]:
        return self.teacher.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
