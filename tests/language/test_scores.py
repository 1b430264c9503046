"""Scores of written texts: values worked out by hand, the shared data's own references, and bad input."""

import builtins
import math

import pytest

from potstill.language.scores import MEASURES, bleu, chrf, cut, exact, exact_each, rouge_l, rouge_l_each, scored
from potstill.language.spec import Text
from potstill.language.texts import load


def test_bleu_of_a_text_worked_out_by_hand():
    # Words 5 of 6 right, pairs 3 of 5, triples 1 of 4, and none of 3 quadruples, which counts as half a one.
    text, reference = "the cat sat on a mat", "the cat lay on a mat"
    by_hand = 100 * math.exp((math.log(5 / 6) + math.log(3 / 5) + math.log(1 / 4) + math.log(0.5 / 3)) / 4)
    assert bleu([text], [[reference]]) == pytest.approx(by_hand)
    # Another reference of it counts, though another text has one only.
    assert bleu([text, text], [[reference, text], [text]]) == pytest.approx(100)
    # Shorter than the references: the brevity penalty of four words for six.
    assert bleu(["the cat sat on"], [["the cat sat on a mat"]]) == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_chrf_rises_with_what_is_shared():
    assert chrf(["ein Hund"], [["ein Hund"]]) == pytest.approx(100)
    assert chrf(["xyz"], [["ein Hund"]]) == 0
    assert 0 < chrf(["ein Hut"], [["ein Hund"]]) < chrf(["ein Hunde"], [["ein Hund"]]) < 100


def test_rouge_l_is_the_best_of_the_references():
    # Common subsequence "a dog" of 3 and 4 words: precision 2/3, recall 1/2.
    assert rouge_l(["a big dog"], [["a dog runs fast"]]) == pytest.approx(100 * 4 / 7)
    assert rouge_l(["a big dog"], [["nothing", "a dog runs fast", "cat"]]) == pytest.approx(100 * 4 / 7)
    assert rouge_l(["dogs running"], [["dog runs"]]) == pytest.approx(100)  # stems
    assert rouge_l_each(["a", ""], [["a"], ["a"]]).tolist() == [100, 0]
    with pytest.raises(ValueError, match="2 of 2 references have none; use chrf"):
        rouge_l(["一个人", "人"], [["一个人"], ["人"]])


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("48/2 = 24\n#### 72", "so\n#### 72", True),
        ("#### $1,250.00 dollars", "#### 1250", True),
        ("#### -5", "#### 5", False),
        ("#### −5.", "#### -5", True),
        ("#### 70%", "#### 70", True),
        ("it is 3 and then 1,000,000.", "#### 1000000", True),
        ("#### 3\n\nQuestion: 9?", "#### 3", True),
        ("#### 3/4", "#### 0.75", True),
        ("#### .5", "#### 0.50", True),
        ("#### 12", "#### 1,2", False),
        ("no idea", "#### 4", False),
        ("", "#### 4", False),
        ("#### Paris ", "#### paris", True),
        ("#### 4/0", "#### 4", True),
        ("#### x = 7", "#### 7", True),
        ("10-7=3 apples", "#### 3", True),
    ],
)
def test_answers_are_equal_as_numbers(text, reference, right):
    assert exact([text], [[reference]]) == 100 * right


def test_the_references_of_the_shared_data_are_right(shared):
    _, valid = load(Text(root=shared("data", "text", "gsm8k")))
    answers = [some[0] for some in valid.references]
    assert exact(answers, valid.references) == 100
    # What stands behind the mark alone is as good, and the answers of others are not.
    assert exact([one.split("####")[1] for one in answers], valid.references) == 100
    assert exact(answers[1:] + answers[:1], valid.references) < 5
    assert exact_each(answers[:2], [["#### 0"], valid.references[1]]).tolist() == [0, 100]


def test_nothing_is_executed(monkeypatch):
    monkeypatch.setattr(builtins, "eval", None)
    assert exact(["#### __import__('os')"], [["#### 1"]]) == 0
    assert exact(["#### 9" + "9" * 400], [["#### 9" + "9" * 400]]) == 100


def test_measures_by_name():
    found = scored(("bleu", "loss", "rouge_l"), ["a man sits on it"], [["a man sits on it"]])
    assert found == {"bleu": pytest.approx(100), "rouge_l": pytest.approx(100)}
    assert {name for name, one in MEASURES.items() if not one.higher_is_better} == {"loss", "perplexity"}
    assert "tok:13a" in MEASURES["bleu"].signature()
    assert all(one.signature() for one in MEASURES.values())
    with pytest.raises(ValueError, match="unknown measure 'rouge'; did you mean 'rouge_l'"):
        scored(["rouge"], ["a"], [["a"]])


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge_l", "exact"])
def test_what_cannot_be_scored(name, monkeypatch):
    function = MEASURES[name].of
    for texts, references, said in (
        ([], [], "0 texts and references of 0"),
        (["a"], [["a"], ["b"]], "1 texts and references of 2"),
        (["a", "b"], [["a"], []], "text 1 has no reference"),
        (["a"], ["a"], "are a list of strings, got the string 'a'"),
    ):
        with pytest.raises(ValueError, match=said):
            function(texts, references)
    if name != "exact":
        for module in ("sacrebleu", "sacrebleu.metrics", "rouge_score", "rouge_score.rouge_scorer"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ValueError, match=r'pip install "potstill\[language\]"'):
            function(["a"], [["a"]])


def test_a_text_ends_at_the_first_stop_string():
    assert cut("A man sits.\nAnd more", ("\n", "user")) == "A man sits."
    assert cut("\nA user sits.\n", ("\n", "user")) == "A"
    assert cut(" All of it ", ()) == "All of it"
