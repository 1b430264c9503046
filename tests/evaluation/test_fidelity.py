"""Fidelity and calibration against scikit-learn, scipy and the kernel form of CKA."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from potstill.evaluation.fidelity import calibration, fidelity, linear_cka, verdict_sentence
from potstill.evaluation.summary import Cell, summarise


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (400,), generator=generator)
    teacher = 2 * torch.randn(400, 7, generator=generator) + 3 * torch.nn.functional.one_hot(labels, 7)
    student = teacher + torch.randn(400, 7, generator=generator)
    return student, teacher, labels


def test_agreement_and_divergence(answers):
    student, teacher, labels = answers
    found = fidelity(*answers)
    p, q = (softmax(side.double().numpy(), axis=1) for side in (teacher, student))
    assert found.kl == pytest.approx(stats.entropy(p, q, axis=1).mean())  # KL(teacher || student), in nats
    assert found.kl != pytest.approx(stats.entropy(q, p, axis=1).mean(), rel=0.01)
    assert found.agreement == pytest.approx(100 * np.mean(p.argmax(1) == q.argmax(1)))
    assert (found.n, found.cka) == (400, None)
    own = calibration(teacher, labels)
    assert (found.teacher_ece, found.teacher_nll, found.teacher_bins) == (own.ece, own.nll, own.bins)


def test_a_perfect_copy():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    found = fidelity(logits, logits + 3.0, logits.argmax(1), logits, 2 * logits)
    assert found.agreement == 100.0
    assert found.kl == pytest.approx(0, abs=1e-7)
    assert found.cka == pytest.approx(1)


def test_calibration_agrees_with_scikit_learn(answers):
    student, _, labels = answers
    found = calibration(student, labels)
    p = softmax(student.double().numpy(), axis=1)
    sure, right = p.max(1), (p.argmax(1) == labels.numpy()).astype(int)
    accuracy, confidence = calibration_curve(right, sure, n_bins=15)
    count = np.histogram(sure, bins=np.linspace(0, 1, 16))[0]
    used = [bar for bar in found.bins if bar.count]
    assert len(found.bins) == 15
    assert [bar.count for bar in found.bins] == count.tolist()
    assert [bar.accuracy for bar in used] == pytest.approx(100 * accuracy)
    assert [bar.confidence for bar in used] == pytest.approx(100 * confidence)
    shares = count[count > 0] / 400
    assert found.ece == pytest.approx(100 * (shares * np.abs(accuracy - confidence)).sum())
    assert found.nll == pytest.approx(log_loss(labels, p, labels=range(7)))


def test_calibration_by_hand():
    """Two samples at 0.6, one of them right; two at 0.9, both right: (2 · |0.5 - 0.6| + 2 · |1 - 0.9|) / 4."""
    logits = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
    found = calibration(logits, torch.tensor([0, 1, 0, 1]), bins=10)
    assert found.ece == pytest.approx(10.0)
    assert [bar.count for bar in found.bins if bar.count] == [2, 2]
    assert found.nll == pytest.approx(-math.log(0.6 * 0.4 * 0.9 * 0.9) / 4)


def test_an_edge_belongs_to_the_bin_below():
    """Guo's bins are open below: a confidence of exactly one half lies in (1/4, 1/2]; of exactly one in the last."""
    found = calibration(torch.tensor([[0.0, 0.0], [900.0, 0.0]]), torch.tensor([0, 0]), bins=4)
    assert [bar.count for bar in found.bins] == [0, 1, 0, 1]
    assert found.bins[0].accuracy is None


def kernel_cka(x, y):
    """Kornblith's equation 3 with the N × N kernels centred by H: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, el = (centre @ side @ side.T @ centre for side in (x, y))
    return np.trace(k @ el) / math.sqrt(np.trace(k @ k) * np.trace(el @ el))


def test_cka_is_the_kernel_form_and_keeps_its_invariances():
    rng = np.random.default_rng(2)
    x = rng.normal(3, 1, (60, 5))
    y = np.concatenate([x[:, :3] ** 2, rng.normal(0, 2, (60, 6))], axis=1)
    found = linear_cka(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(kernel_cka(x, y))
    assert 0.05 < found < 0.95
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert linear_cka(torch.tensor(7 * x @ turn + 40), torch.tensor(y)) == pytest.approx(found)
    assert linear_cka(torch.tensor(y), torch.tensor(x)) == pytest.approx(found)


def test_cka_in_float32_far_from_the_origin_and_of_extreme_size():
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, (80, 4)), rng.normal(0, 1, (80, 4))
    far = torch.tensor(x + 1000, dtype=torch.float32)
    assert linear_cka(far, torch.tensor(y)) == pytest.approx(kernel_cka(far.double().numpy(), y), rel=1e-6)
    assert linear_cka(torch.tensor(1e-120 * x), torch.tensor(y)) == pytest.approx(kernel_cka(x, y))


def test_a_collapsed_embedding_has_no_cka(answers):
    student, teacher, labels = answers
    found = fidelity(student, teacher, labels, torch.full((400, 3), 0.1), teacher)
    assert found.cka is None


def test_half_precision_on_the_way_in_and_json_on_the_way_out(answers):
    student, teacher, labels = answers
    found = fidelity(student.half().requires_grad_(), teacher.bfloat16(), labels, student, teacher)
    written = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert {"agreement", "kl", "cka", "ece", "nll", "bins", "teacher_ece"} <= written.keys()
    assert written["bins"][14]["high"] == 100
    assert 0 < written["cka"] < 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": torch.zeros(4, 2)}, "expected the same samples and classes"),
        ({"student": torch.zeros(4)}, r"student logits: shape \[4\]"),
        ({"student": torch.full((4, 3), math.nan)}, "student logits: 12 of 12 values are not finite"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels run from 0 to 3; with 3 classes expected 0 to 2"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "expected 4 class numbers"),
        ({"labels": torch.zeros(4)}, "expected 4 class numbers"),
        ({"student_embedding": torch.zeros(3, 2)}, "student embedding has 3 samples, the logits 4"),
        ({"bins": 0}, "at least 1 bin"),
    ],
)
def test_errors(change, words):
    given = {"student": torch.zeros(4, 3), "teacher": torch.zeros(4, 3), "labels": torch.tensor([0, 1, 2, 0])}
    embeddings = {"student_embedding": torch.zeros(4, 2), "teacher_embedding": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=words):
        fidelity(**(given | embeddings | change))


def test_errors_of_cka():
    with pytest.raises(ValueError, match="at least 2 samples on both sides, got 3 and 4"):
        linear_cka(torch.zeros(3, 2), torch.zeros(4, 2))


def summary(**methods):
    cells = [
        Cell(method, seed, top1, 90.0, None, 10, 1.0, method, method, teacher_free=method in ("student", "ls"))
        for method, values in methods.items()
        for seed, top1 in enumerate(values)
    ]
    return summarise(dataset="digits", teacher=None, cells=cells, run="demo")


def test_sentences_say_what_did_not_help():
    base = [49.8, 50.0, 49.9, 49.7, 50.1]
    found = summary(
        student=base,
        icd=[48.0, 50.3, 49.5, 50.2, 48.5],
        at=[45.0, 45.2, 45.1, 44.9, 45.0],
        kd=[55.0, 55.2, 55.1, 54.9, 55.0],
        crd=[50.9, 49.3, 51.0, 49.8, 50.2],
        sp=[50.0, 50.2],
        rkd=[48.0],
        ls=[40.0] * 5,
        **{"icd~shuffled": [40.0] * 5},
    )
    sentences = {row["method"]: verdict_sentence(found, row["method"]) for row in found["rows"]}
    assert sentences["icd"] == (
        "icd did not help: 49.3 against 49.9 % of a student trained for as long (difference -0.6 [-1.9, 0.7])."
    )
    assert sentences["at"].startswith("at did worse: 45.0 against 49.9 %")
    assert sentences["crd"].startswith("crd was not shown to help: 50.2 against 49.9 %")
    assert sentences["sp"].endswith("; 2 seeds decide nothing, a verdict needs 5.")
    assert sentences["rkd"] == (  # against the one seed that both have
        "rkd did not help: 48.0 against 49.8 % of a student trained for as long (difference -1.8); "
        "1 seed decides nothing, a verdict needs 5."
    )
    assert [sentences[quiet] for quiet in ("student", "kd", "ls", "icd~shuffled")] == [None] * 4
    with pytest.raises(ValueError, match="did you mean 'icd'"):
        verdict_sentence(found, "icdd")
