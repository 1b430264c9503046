"""RTK, our reconstruction: the formula written out, which keys are left, and what it has in common with AFD."""

import math

import pytest
import torch
from torch import nn

from potstill.methods import parse
from potstill.objectives import AFD, RTK


def maps(*shapes, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for shape in shapes)


STUDENT = maps((2, 4, 4), (3, 2, 2))
TEACHER = maps((4, 4, 3), (3, 2, 2), (5, 4, 3), seed=1)


def built(**options):
    torch.manual_seed(0)
    return RTK([2, 3], [4, 3, 5], width=6, **options).double().eval()


def unlike(ours, theirs):
    """Mean square between the two maps of where a network looks, ours brought to their size."""

    def unit(vector):
        return vector / math.sqrt(float(vector.square().sum()))

    pooled = nn.functional.adaptive_avg_pool2d(ours.square().mean(0)[None], theirs.shape[-2:])
    return (unit(pooled.flatten()) - unit(theirs.square().mean(0).flatten())).square().mean()


@pytest.mark.parametrize(("r", "threshold"), [(1, 0.0), (2, 0.0), (0, 1.0), (3, 1.2), (0, 0.0)])
def test_rtk_is_the_formula(r, threshold):
    """Layer by layer and sample by sample: student layers ask, and the teacher's that answer most are left."""
    rtk = built(r=r, threshold=threshold)
    heads = rtk.attention
    keys = [key(x.mean((2, 3))).clamp(min=0) for key, x in zip(heads.keys, TEACHER, strict=True)]
    total = torch.zeros(4, dtype=torch.float64)
    for s, h_s in enumerate(STUDENT):
        query = heads.queries[s](h_s.mean((2, 3)))
        for i in range(4):
            scores = []
            for t in range(3):
                key = heads.bilinear(keys[t])[i, 6 * s : 6 * (s + 1)]
                scores.append((key @ query[i] + heads.query_positions[s] @ heads.key_positions[t]) / 6**0.5)
            share = torch.stack(scores).softmax(0).tolist()
            order = sorted(range(3), key=lambda t: -share[t])
            left = [t for t in order[: r or 3] if share[t] > threshold / 3] or order[:1]
            for t in left:
                total[i] += share[t] / sum(share[u] for u in left) * unlike(h_s[i], TEACHER[t][i])
    torch.testing.assert_close(rtk(STUDENT, TEACHER), total)


def test_turned_round_and_without_a_filter_it_is_afd():
    rtk, afd = built(r=0, direction="teacher"), AFD([2, 3], [4, 3, 5], width=6).double().eval()
    afd.load_state_dict(rtk.state_dict())
    torch.testing.assert_close(rtk(STUDENT, TEACHER), afd(STUDENT, TEACHER))
    assert not torch.allclose(built(r=1, direction="teacher")(STUDENT, TEACHER), afd(STUDENT, TEACHER))


def test_which_keys_are_left():
    attention = torch.tensor([[[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]]], dtype=torch.float64)
    for options, first in [
        ({"r": 1}, [1, 0, 0, 0]),
        ({"r": 2}, [0.625, 0.375, 0, 0]),
        ({"r": 9}, [0.5, 0.3, 0.15, 0.05]),
        ({"r": 0, "threshold": 1.0}, [0.625, 0.375, 0, 0]),
        ({"r": 0, "threshold": 3.9}, [1, 0, 0, 0]),  # nothing is above it, so the largest alone stays
    ]:
        found = built(**options).filtered(attention)
        assert found[0, 0].tolist() == pytest.approx(first)
        assert found[0, 1].sum() == pytest.approx(1)


def test_with_one_key_the_attention_learns_nothing():
    """Its one weight is 1 whatever the heads say: they get no gradient, and the choice stays as it was drawn."""
    for r, learns in ((1, False), (2, True)):
        rtk = built(r=r)
        student = tuple(x.clone().requires_grad_() for x in STUDENT)
        rtk(student, TEACHER).sum().backward()
        assert all(x.grad.abs().max() > 0 for x in student)
        assert bool(max(p.grad.abs().max() for p in rtk.parameters()) > 1e-12) == learns


def test_going_down_makes_the_student_look_where_the_teacher_looks():
    student = tuple(x.clone().requires_grad_() for x in STUDENT)
    rtk = built(r=1)
    optimizer = torch.optim.Adam(student, lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = rtk(student, TEACHER).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_it_says_that_it_is_a_reconstruction():
    assert RTK.reconstruction
    assert "Reconstruction" in RTK.__doc__
    assert not AFD.reconstruction
    assert parse("rtk").expansion == "ce:1+kd:0.9+rtk:200"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": -1}, "not be negative"),
        ({"threshold": -0.5}, "not be negative"),
        ({"direction": "up"}, "student or teacher"),
    ],
)
def test_what_rtk_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        built(**options)
