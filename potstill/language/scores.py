"""What written texts are worth, in percent: BLEU, chrF, ROUGE-L and exact answers, by well-known libraries.

Each takes the texts that a network wrote and, of every text, one or several references.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from potstill.errors import did_you_mean

References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Measure:
    """A number that says how good texts are. `of` gives it for a whole split, `each` (where the measure is a mean over
    texts) for every text; both are None for what is computed from logits. `signature` says how it is computed, and by
    which version of what.
    """

    title: str
    of: Callable[[Sequence[str], References], float] | None
    signature: Callable[[], str]
    higher_is_better: bool = True
    each: Callable[[Sequence[str], References], np.ndarray] | None = None


def bleu(texts: Sequence[str], references: References) -> float:
    """Corpus BLEU-4 as sacreBLEU's default computes it: tokenizer 13a, case as it is, exponential smoothing.

    Several references of a text count together, as the metric defines it; texts may have unequally many.

    >>> round(bleu(["a man sits on a bench ."], [["a man sits on a bench ."]]), 6)
    100.0

    Raises:
        ValueError: sacrebleu is missing, nothing to score, or a text without a reference.

    Papineni et al.: BLEU. ACL 2002. Post: A Call for Clarity in Reporting BLEU Scores. WMT 2018. arXiv:1804.08771
    """
    return _sacrebleu("BLEU", texts, references)[0]


def chrf(texts: Sequence[str], references: References) -> float:
    """Corpus chrF2 (character 6-grams, no word n-grams, white space left out), by sacreBLEU.

    Raises:
        ValueError: as for `bleu`.

    Popović: chrF: character n-gram F-score for automatic MT evaluation. WMT 2015.
    """
    return _sacrebleu("CHRF", texts, references)[0]


def rouge_l(texts: Sequence[str], references: References) -> float:
    """Mean over texts of ROUGE-L's F-measure against the best of a text's references, words stemmed (Porter).

    By `rouge_score`, whose words are runs of a-z and 0-9: other scripts have none, and are refused.

    Raises:
        ValueError: rouge_score is missing, nothing to score, or references in another script.

    Lin: ROUGE: A Package for Automatic Evaluation of Summaries. ACL workshop 2004.
    """
    return float(rouge_l_each(texts, references).mean())


def rouge_l_each(texts: Sequence[str], references: References) -> np.ndarray:
    """ROUGE-L of every text, float64 `[N]` in percent."""
    _check(texts, references)
    wordless = sum(not any(re.search("[a-z0-9]", one.lower()) for one in some) for some in references)
    if 2 * wordless > len(references):
        raise ValueError(
            f"ROUGE-L counts words of a-z and 0-9, of which {wordless} of {len(references)} references have "
            "none; use chrf"
        )
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    found = [scorer.score_multi(some, text)["rougeL"].fmeasure for text, some in zip(texts, references, strict=True)]
    return 100 * np.array(found)


def exact(texts: Sequence[str], references: References) -> float:
    """How many texts have the reference's answer: the number after `####`, else the last number of the text.

    Numbers are equal in value: thousands separators, currency, units and trailing zeros make no difference, and 3/4 is
    0.75. A reference without a number is compared word by word, without regard to case.

    >>> exact(["6 x 200 is 1200\\n#### $1,200.00"], [["#### 1200"]])
    100.0

    Raises:
        ValueError: nothing to score, or a text without a reference.

    Cobbe et al.: Training Verifiers to Solve Math Word Problems. 2021. arXiv:2110.14168
    """
    return float(exact_each(texts, references).mean())


def exact_each(texts: Sequence[str], references: References) -> np.ndarray:
    """0 or 100 of every text, float64 `[N]`."""
    _check(texts, references)
    return 100.0 * np.array(
        [any(_same(text, one) for one in some) for text, some in zip(texts, references, strict=True)], dtype=np.float64
    )


_NUMBER = re.compile(r"(?<![\w.])([-−+]?)\s?[$€£]?\s?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:\s?/\s?(\d+))?")


def answer(text: str) -> Fraction | None:
    """The number that a text gives as its answer: the first after the first `####` that one follows, else the last;
    None where there is no number.

    >>> answer("so 3 apples, #### -1,250 apples"), answer("first 2, then 0.5."), answer("none")
    (Fraction(-1250, 1), Fraction(1, 2), None)
    """
    marked = text.split("####")[1:]
    found = next((number for part in marked if (number := _NUMBER.search(part))), None)
    if found is None:
        found = next(iter([*_NUMBER.finditer(text)][-1:]), None)
    if found is None:
        return None
    sign, digits, divisor = found.groups()
    value = Fraction(Decimal(digits.replace(",", "")))
    value = value / int(divisor) if divisor and int(divisor) else value
    return -value if sign in ("-", "−") else value


def _same(text: str, reference: str) -> bool:
    expected = answer(reference)
    if expected is None:
        return text.split("####")[-1].casefold().split() == reference.split("####")[-1].casefold().split()
    return answer(text) == expected


def _logits() -> str:
    return "mean negative log-likelihood of a response token, end-of-text included, natural logarithm"


def _rouge_signature() -> str:
    return f"rougeL|stem:porter|mean:F|references:best|rouge_score:{_version('rouge_score', 'rouge-score')}"


MEASURES: Mapping[str, Measure] = {
    "bleu": Measure("BLEU", bleu, lambda: _sacrebleu("BLEU", ["a"], [["a"]])[1]),
    "chrf": Measure("chrF", chrf, lambda: _sacrebleu("CHRF", ["a"], [["a"]])[1]),
    "rouge_l": Measure("ROUGE-L", rouge_l, _rouge_signature, each=rouge_l_each),
    "exact": Measure("exact match", exact, lambda: "number after ####, else the last; equal in value", each=exact_each),
    "loss": Measure("loss", None, _logits, higher_is_better=False),
    "perplexity": Measure("perplexity", None, lambda: f"exponential of the {_logits()}", higher_is_better=False),
}
"""By name. Those without a function are computed where the logits are."""


def check(names: Iterable[str]) -> None:
    """Raises ValueError for a measure that there is not."""
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"unknown measure {name!r}; {did_you_mean(name, MEASURES)}")


def scored(names: Iterable[str], texts: Sequence[str], references: References) -> dict[str, float]:
    """Those of the measures that are computed from texts, by name."""
    names = list(names)
    check(names)
    return {name: function(texts, references) for name in names if (function := MEASURES[name].of)}


def cut(text: str, stop: Iterable[str]) -> str:
    """A text up to the first of the stop strings, without white space around it.

    >>> cut(" A man sits.\\nuser: and now", ["\\n", "user"])
    'A man sits.'
    """
    text = text.strip()
    places = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(places, default=len(text))].rstrip()


def _sacrebleu(metric: str, texts: Sequence[str], references: References) -> tuple[float, str]:
    _check(texts, references)
    most = max(map(len, references))
    # sacreBLEU wants the first references of all texts, then the second: None where a text has fewer.
    streams = [[some[at] if at < len(some) else None for some in references] for at in range(most)]
    measure = getattr(_library("sacrebleu.metrics"), metric)()
    return measure.corpus_score(list(texts), streams).score, str(measure.get_signature())


def _check(texts: Sequence[str], references: References) -> None:
    if not texts or len(texts) != len(references):
        raise ValueError(
            f"{len(texts)} texts and references of {len(references)}: there must be equally many, and some"
        )
    for row, some in enumerate(references):
        if isinstance(some, str):
            raise ValueError(f"the references of a text are a list of strings, got the string {some[:40]!r}")
        if not some:
            raise ValueError(f"text {row} has no reference to be scored against")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ValueError(f'this score needs {package}: pip install "potstill[language]"') from error


def _version(module: str, package: str) -> str:
    from importlib.metadata import version

    _library(module)
    return version(package)
