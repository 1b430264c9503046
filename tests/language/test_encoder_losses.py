"""Losses of hidden states and attention against the papers' formulas, written as loops over texts without padding."""

import math

import pytest
import torch

from potstill.objectives import AttentionMSE, HiddenCosine, HiddenMSE, MiniLMAttention, MiniLMRelations
from potstill.types import DataInfo

DATA = DataInfo(samples=10, batch_size=3)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1]])


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def real(value, row):
    """A text's own tokens."""
    return value[row, [place for place in range(5) if MASK[row, place]]]


def softmax(numbers):
    top = sum(math.exp(number) for number in numbers)
    return [math.exp(number) / top for number in numbers]


def divergence(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def scores(queries, keys, head):
    """`[L, h, d]` of one text: the products of a head, as lists."""
    width = queries.shape[-1]
    dot = [[sum(float(a * b) for a, b in zip(q[head], k[head], strict=True)) for k in keys] for q in queries]
    return [[value / math.sqrt(width) for value in row] for row in dot]


def disagreement(student, teacher, heads):
    """Mean of KL(teacher || student) over heads and rows, of score matrices by head."""
    found = []
    for head in range(heads):
        rows = zip(teacher(head), student(head), strict=True)
        found += [divergence(softmax(theirs), softmax(ours)) for theirs, ours in rows]
    return sum(found) / len(found)


def build(kind, student, teacher, **options):
    torch.manual_seed(0)
    return kind.sized(student, teacher, DATA, {}, **options).double()


def test_hidden_states_of_every_second_layer():
    student = tuple(draw(3, 5, 4, seed=n) for n in range(3))
    teacher = tuple(draw(3, 5, 6, seed=10 + n) for n in range(5))
    for options in ({}, {"projection": "paper"}):
        loss = build(HiddenMSE, student, teacher, **options)
        loss.requires_grad_(False)
        heads = [loss.projections[0], *(loss.projections[-1],) * 2]
        for row, value in enumerate(loss(student, teacher, attention_mask=MASK)):
            expected = 0.0
            for own, other, head in zip((0, 1, 2), (0, 2, 4), heads, strict=True):
                off = []
                for ours, theirs in zip(real(student[own], row), real(teacher[other], row), strict=True):
                    bias = 0 if head.bias is None else head.bias
                    off += [float(x) ** 2 for x in head.weight @ ours + bias - theirs]
                expected += sum(off) / len(off)
            assert float(value) == pytest.approx(expected, rel=1e-12)


def test_attention_scores_of_every_second_layer():
    student = tuple(draw(3, 5, 2, 3, seed=n) for n in range(4))  # two layers: their queries, then their keys
    teacher = tuple(draw(3, 5, 2, 4, seed=10 + n) for n in range(8))
    loss = build(AttentionMSE, student, teacher)
    released = build(AttentionMSE, student, teacher, pads="counted")
    values = zip(
        loss(student, teacher, attention_mask=MASK), released(student, teacher, attention_mask=MASK), strict=True
    )
    for row, (value, counted) in enumerate(values):
        expected = theirs_too = 0.0
        for own, other in ((0, 1), (1, 3)):
            off, padded = [], []
            for head in range(2):
                sides = ((student[own], student[2 + own]), (teacher[other], teacher[4 + other]))
                ours, theirs = (scores(real(q, row), real(k, row), head) for q, k in sides)
                off += [(a - b) ** 2 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
                ours, theirs = (scores(q[row], k[row], head) for q, k in sides)
                kept = [
                    [0.0 if not MASK[row, key] else (ours[at][key] - theirs[at][key]) ** 2 for key in range(5)]
                    for at in range(5)
                ]
                padded += [value for line in kept for value in line]
            expected += sum(off) / len(off)
            theirs_too += sum(padded) / len(padded)
        assert float(value) == pytest.approx(expected, rel=1e-12)
        assert float(counted) == pytest.approx(theirs_too, rel=1e-12)


def test_relations_of_queries_keys_and_values():
    student = tuple(draw(3, 5, 2, 6, seed=n) for n in range(3))  # 12 wide in 2 heads
    teacher = tuple(draw(3, 5, 3, 6, seed=10 + n) for n in range(3))  # 18 wide in 3
    loss = build(MiniLMRelations, student, teacher, heads=3)
    for row, value in enumerate(loss(student, teacher, attention_mask=MASK)):
        expected = 0.0
        for ours, theirs in zip(student, teacher, strict=True):
            # Relation head a of width w is numbers a * w to a * w + w of a token, whatever the heads were.
            cut = [real(side, row).reshape(int(MASK[row].sum()), 3, -1) for side in (ours, theirs)]
            expected += disagreement(*(lambda head, x=x: scores(x, x, head) for x in cut), heads=3) / 3
        assert float(value) == pytest.approx(expected, rel=1e-12)


def test_attention_and_value_relations():
    student = tuple(draw(3, 5, 2, 3, seed=n) for n in range(3))
    teacher = tuple(draw(3, 5, 2, 5, seed=10 + n) for n in range(3))
    loss = build(MiniLMAttention, student, teacher)
    for row, value in enumerate(loss(student, teacher, attention_mask=MASK)):
        ours, theirs = ([real(one, row) for one in side] for side in (student, teacher))
        expected = 0.0
        for a, b in ((0, 1), (2, 2)):
            sides = ((ours[a], ours[b]), (theirs[a], theirs[b]))
            expected += disagreement(*(lambda head, x=x, y=y: scores(x, y, head) for x, y in sides), heads=2)
        assert float(value) == pytest.approx(expected, rel=1e-12)


def test_directions_of_hidden_states():
    student, teacher = draw(3, 5, 4), draw(3, 5, 4, seed=1)
    losses = build(HiddenCosine, student, teacher)(student, teacher)
    by_text = build(HiddenCosine, student, teacher, per="sample")(student, teacher, attention_mask=MASK)
    for row in range(3):
        expected = []
        for ours, theirs in zip(student[row].tolist(), teacher[row].tolist(), strict=True):
            dot = sum(a * b for a, b in zip(ours, theirs, strict=True))
            expected.append(1 - dot / math.hypot(*ours) / math.hypot(*theirs))
        assert losses[row].tolist() == pytest.approx(expected, rel=1e-12)
        kept = [value for value, keep in zip(expected, MASK[row], strict=True) if keep]
        assert float(by_text[row]) == pytest.approx(sum(kept) / len(kept), rel=1e-12)
    wider = build(HiddenCosine, student, draw(3, 5, 6, seed=1))
    assert [tuple(p.shape) for p in wider.parameters()] == [(6, 4)]


QKV = tuple(draw(3, 5, 2, 6) for _ in range(3))


@pytest.mark.parametrize(
    ("kind", "student", "teacher", "options", "says"),
    [
        (HiddenMSE, (draw(3, 5, 4),) * 4, (draw(3, 5, 4),) * 6, {}, "3 layers and the teacher 5, which is no multiple"),
        (HiddenMSE, draw(3, 5, 4), draw(3, 5, 6), {"projection": "none"}, "projection=shared, which learns a matrix"),
        (HiddenMSE, draw(3, 5, 4), draw(3, 6, 4), {}, "texts of 5 and 6 tokens"),
        (HiddenMSE, draw(3, 5, 4, 4), draw(3, 5, 4), {}, r"a student tap has shape \[3, 5, 4, 4\]"),
        (HiddenMSE, draw(3, 5, 4), draw(3, 5, 4), {"pads": "no"}, "pads is ignored or counted"),
        (AttentionMSE, QKV[:2], (draw(3, 5, 4, 6),) * 2, {}, "student has 2 attention heads and the teacher 4"),
        (AttentionMSE, QKV, QKV, {}, "expected queries of all layers, then their keys"),
        (MiniLMRelations, QKV, QKV, {"heads": 5}, "do not divide a width of 12; set heads to one of 1, 2, 3, 4, 6, 12"),
        (MiniLMAttention, QKV, QKV[:2], {}, "queries, keys and values of one layer"),
        (HiddenCosine, (draw(3, 5, 4),) * 2, (draw(3, 5, 4),) * 2, {}, "write a Term for each layer"),
    ],
)
def test_what_does_not_fit(kind, student, teacher, options, says):
    with pytest.raises(ValueError, match=says):
        kind.sized(student, teacher, DATA, {}, **options)
