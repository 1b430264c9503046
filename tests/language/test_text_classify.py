"""Evaluating classifiers of texts, and networks that take less than the data gives."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from potstill.sources import Network
from potstill.tasks.text_classify import TextClassify
from potstill.types import Batch, View


class Told(nn.Module):
    """Answers with what is written in place of the ids; takes no token types."""

    def forward(self, input_ids, attention_mask):
        assert attention_mask.dtype == torch.int64
        return SimpleNamespace(logits=input_ids.float())


def batches(answers, labels):
    inputs = {"input_ids": answers, "attention_mask": torch.ones(len(answers), 2, dtype=torch.bool)}
    inputs["token_type_ids"] = torch.zeros(len(answers), 2, dtype=torch.int64)
    whole = Batch({"main": View(inputs, torch.arange(len(answers)), labels)})
    return whole.split(2)


def measured(answers, labels, reference=None):
    found = TextClassify().evaluate(Network(Told(), trained=True), batches(answers, labels), reference)
    assert found.finite == bool(answers.isfinite().all())
    return found


def test_accuracy_loss_and_agreement_of_classes():
    answers, labels = torch.eye(3)[torch.tensor([0, 1, 2, 2])], torch.tensor([0, 1, 2, 0])
    found = measured(answers, labels, reference=torch.tensor([0, 1, 1, 1]))
    right, wrong = torch.tensor([1.0, 0, 0]).log_softmax(0)[:2].neg().tolist()
    assert found.scores == pytest.approx({"accuracy": 75, "agreement": 50, "loss": (3 * right + wrong) / 4})
    assert found.predictions.tolist() == [0, 1, 2, 2]
    assert found.says == "accuracy 75.00, agreement 50.00"
    assert measured(answers, None).scores == {}
    assert found.measured["valid_accuracy"] == 75


def test_correlations_of_scores():
    labels = torch.tensor([0.0, 1.0, 2.0, 5.0])
    exact = measured(3 * labels[:, None] - 1, labels)
    assert exact.scores == pytest.approx({"pearson": 100, "spearman": 100, "loss": 23})  # mean of (2 y - 1)²
    curved = measured(labels[:, None].square(), labels)
    assert curved.scores["spearman"] == pytest.approx(100)
    assert 90 < curved.scores["pearson"] < 99
    opposite = measured(-labels[:, None], labels)
    assert opposite.scores["pearson"] == pytest.approx(-100)
    assert measured(torch.ones(4, 1), labels).scores["pearson"] == 0


def test_bad_inputs_and_answers():
    task = TextClassify()
    with pytest.raises(ValueError, match="expected tokenised text"):
        task.forward(Told(), Batch({"main": View(torch.zeros(2, 3), torch.arange(2))}), "main")
    silent = nn.Module()
    silent.forward = lambda input_ids, attention_mask: SimpleNamespace(last_hidden_state=input_ids)
    with pytest.raises(ValueError, match="without logits; take one with a classifier"):
        task.forward(silent, batches(torch.eye(2), None)[0], "main")
