"""Losses on maps, embeddings and relations: odd sizes, degenerate inputs, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from potstill.methods import parse
from potstill.objectives import (
    AB,
    AT,
    CC,
    FSP,
    FT,
    ITRD,
    KDSVD,
    NST,
    OBJECTIVES,
    PKT,
    RKD,
    SP,
    VID,
    FTParaphraser,
    PKTSupervised,
)
from potstill.types import DataInfo

DATA = DataInfo(samples=50, batch_size=5, classes=10)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape)), dtype=torch.float64).to(dtype)


def gradients(objective, student, teacher, **extras):
    """(mean loss, gradient of every student tensor and parameter); each of them finite."""
    many = isinstance(student, tuple)
    leaves = [one.detach().clone().requires_grad_() for one in (student if many else (student,))]
    loss = objective(tuple(leaves) if many else leaves[0], teacher, **extras).mean()
    loss.backward()
    found = [one.grad for one in (*leaves, *objective.parameters()) if one.grad is not None]
    assert loss.isfinite()
    assert all(one.isfinite().all() for one in found)
    return loss.detach(), found


@pytest.mark.parametrize(
    ("text", "expansion"),
    [
        ("at", "ce:1+at:1000"),
        ("sp", "ce:1+sp:3000"),
        ("cc", "ce:1+cc:0.02"),
        ("vid", "ce:1+vid:1"),
        ("rkd", "ce:1+rkd:1"),
        ("pkt", "ce:1+pkt:30000"),
        ("nst", "ce:1+nst:50"),
        ("at(p=4):500", "ce:1+at(p=4):500"),
        ("itrd(lambda_mutual=1,alpha=1.01)", "ce:1+itrd(lambda_mutual=1,alpha=1.01):1"),
    ],
)
def test_weights_of_the_papers(text, expansion):
    assert parse(text).expansion == expansion


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["at", "nst"])
def test_the_larger_map_is_pooled(name):
    student, teacher = drawn(3, 4, 8, 6), drawn(3, 5, 4, 2, seed=1)
    objective = OBJECTIVES[name].sized(student, teacher, DATA, {})
    torch.testing.assert_close(
        objective(student, teacher), objective(F.adaptive_avg_pool2d(student, (4, 2)), teacher), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        objective(teacher, student), objective(teacher, F.adaptive_avg_pool2d(student, (4, 2))), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("shape", [(9, 2, 2), (3, 5, 4), (6, 3, 2)])
def test_nst_is_the_discrepancy_of_channels(shape):
    """Few pixels or few channels: each is computed in its own way."""
    student, teacher = drawn(2, *shape), drawn(2, shape[0] + 1, *shape[1:], seed=1)

    def kernel(one, other):
        pairs = [(F.normalize(a, dim=0) @ F.normalize(b, dim=0)) ** 2 for a in one for b in other]
        return sum(pairs) / len(pairs)

    for loss, s, t in zip(NST()(student, teacher), student.flatten(2), teacher.flatten(2), strict=True):
        assert loss.item() == pytest.approx((kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)).item(), rel=1e-12)


def test_cc_shares_each_pair_between_its_samples():
    student, teacher = drawn(4, 3), drawn(4, 5)
    cc = CC(3, 5, width=2).double()
    delta = (cc.student_head(student) - cc.teacher_head(teacher)).abs()
    first, second, third = (delta[i] @ delta[i + 1] for i in range(3))
    expected = torch.stack([first, first + second, second + third, third]) / 2 * 4 / 3
    torch.testing.assert_close(cc(student, teacher), expected)


def test_ft_takes_the_paraphraser_that_stage_one_trained_and_freezes_it():
    maps, theirs = drawn(3, 4, 4, 4, dtype=torch.float32), drawn(3, 6, 4, 4, seed=1, dtype=torch.float32)
    one = FTParaphraser.sized(None, theirs, DATA, {}, rate=0.5)
    ft = FT.sized(maps, theirs, DATA, {}, rate=0.5)
    ft.paraphraser.load_state_dict(one.encoder.state_dict())
    assert torch.equal(ft.paraphraser(theirs), one.encoder(theirs))
    gradients(ft, maps, theirs)
    assert all(p.grad is None for p in ft.paraphraser.parameters())
    assert all(p.grad is not None for p in ft.translator.parameters())


def test_kdsvd_does_not_depend_on_the_sign_of_a_singular_vector():
    """The vectors of a map and of its negative are the same up to sign."""
    student, teacher = (drawn(3, 5, 4, 3), drawn(3, 7, 2, 3)), (drawn(3, 5, 4, 4, seed=1), drawn(3, 7, 4, 4, seed=1))
    loss = KDSVD(2)(student, teacher)
    flipped = tuple(-one for one in student), tuple(-one for one in teacher)
    for other in (KDSVD(2)(student, flipped[1]), KDSVD(2)(flipped[0], teacher)):
        torch.testing.assert_close(other, loss, rtol=1e-10, atol=0)


def test_rkd_keeps_its_digits_far_from_the_origin():
    student, teacher = drawn(6, 4), drawn(6, 5)
    exact, _ = gradients(RKD(), student, teacher)
    moved, _ = gradients(RKD(), (student + 100).float(), (teacher - 100).float())
    assert moved.item() == pytest.approx(exact.item(), rel=1e-4)


# --- degenerate inputs -----------------------------------------------------------------------------------------------

both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@both
def test_rkd_where_samples_coincide(dtype):
    student, teacher = drawn(6, 4, dtype=dtype), drawn(6, 5, dtype=dtype)
    student[2] = student[4]
    _, (gradient,) = gradients(RKD(), student, teacher)
    assert gradient.abs().max() < 10, "the reference's gradient is 1e11"
    for rows in (torch.ones_like(student), torch.zeros_like(student)):
        _, (gradient,) = gradients(RKD(), rows, teacher)
        assert not gradient.any()


@both
def test_pkt_where_a_row_is_zero(dtype):
    student, teacher = drawn(6, 4, dtype=dtype), drawn(6, 5, dtype=dtype)
    student[2] = 0
    for objective, right, extras in (
        (PKT(), teacher, {}),
        (PKTSupervised(), None, {"label": torch.arange(6) % 2}),
    ):
        _, (gradient,) = gradients(objective, student, right, **extras)
        assert not gradient[2].any()
        assert gradient[3].any()


@both
def test_itrd_where_a_feature_is_constant(dtype):
    student, teacher = drawn(6, 4, dtype=dtype), drawn(6, 5, dtype=dtype)
    teacher[:, 2] = 2.1
    itrd = ITRD(4, 5, lambda_mutual=0).to(dtype)
    loss, _ = gradients(itrd, student, teacher)
    others = teacher[:, [0, 1, 3, 4]].T
    pairs = zip(itrd.embed(student)[:, [0, 1, 3, 4]].T, others, strict=True)
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])
    expected = ((1 - correlation * 5 / 6).abs().pow(3).sum() + 1).log2()
    torch.testing.assert_close(loss / 2, expected)
    gradients(itrd, torch.zeros_like(student), torch.zeros_like(teacher))
    gradients(ITRD(4, 4).to(dtype), torch.zeros_like(student), torch.zeros_like(student))


@both
def test_a_batch_of_one(dtype):
    """The reference gives NaN."""
    student, teacher = drawn(1, 4, dtype=dtype), drawn(1, 5, dtype=dtype)
    assert gradients(RKD(), student, teacher)[0] == 0
    assert gradients(CC(4, 5).to(dtype), student, teacher)[0] == 0
    gradients(ITRD(4, 5).to(dtype), student, teacher)
    gradients(PKT(), student, teacher)


@both
@pytest.mark.parametrize("log_scale", [-1000.0, 30.0, 100.0, 1000.0])
def test_vid_with_any_variance(dtype, log_scale):
    vid = VID((3,), (4,)).to(dtype)
    torch.nn.init.constant_(vid.layers[0].log_scale, log_scale)
    loss, _ = gradients(vid, drawn(2, 3, 4, 4, dtype=dtype), drawn(2, 4, 4, 4, dtype=dtype))
    if log_scale == 1000:
        assert loss.item() == pytest.approx(torch.tensor(1000.0).log().item() / 2, rel=1e-2)


@both
@pytest.mark.parametrize("name", ["at", "sp", "nst"])
def test_maps_without_activity(name, dtype):
    """A channel that is off everywhere, and a network that is."""
    student, teacher = drawn(3, 4, 4, 4, dtype=dtype).relu(), drawn(3, 4, 4, 4, seed=1, dtype=dtype).relu()
    student[:, 1] = 0
    objective = OBJECTIVES[name].sized(student, teacher, DATA, {})
    gradients(objective, student, teacher)
    gradients(objective, torch.zeros_like(student), teacher)
    gradients(objective, student, torch.zeros_like(teacher))


@both
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("kind", ["equal", "zero", "one", "off", "tiny", "huge"])
def test_kdsvd_where_singular_values_coincide(kind, k, dtype):
    orthogonal = torch.linalg.qr(drawn(3, 12, 5))[0].mT.reshape(3, 5, 4, 3).to(dtype)
    off = drawn(3, 5, 4, 3, dtype=dtype).relu()
    off[:, 1:3] = 0
    odd = {
        "equal": orthogonal,
        "zero": torch.zeros_like(orthogonal),
        "one": torch.ones_like(orthogonal),
        "off": off,
        "tiny": 1e-20 * orthogonal,
        "huge": 1e12 * orthogonal,
    }[kind]
    plain, wide = drawn(3, 5, 4, 3, seed=1, dtype=dtype), drawn(3, 8, 2, 2, dtype=dtype)
    gradients(KDSVD(k), (odd, wide), (plain, wide + 1))
    gradients(KDSVD(k), (plain, wide), (odd, wide + 1))
    gradients(KDSVD(k), (wide, odd.mT), (wide, odd))


# --- refusals --------------------------------------------------------------------------------------------------------

MAPS = drawn(5, 3, 4, 4), drawn(5, 6, 2, 2)
ROWS = drawn(5, 8)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "options", "message"),
    [
        ("at", MAPS, MAPS[0], {}, r"at: the student gives 2 maps and the teacher 1, .*name as many taps on both sides"),
        ("vid", MAPS, (*MAPS, MAPS[1]), {}, "vid: the student gives 2 maps and the teacher 3"),
        ("nst", MAPS, ROWS, {}, r"nst: a teacher tap has shape \[5, 8\], expected feature maps \[B, C, H, W\]"),
        ("sp", MAPS, MAPS[0], {}, "sp: the student gives 2 taps and the teacher 1"),
        ("at", MAPS, MAPS, {"p": 0}, "at: p must be a positive integer, got 0"),
        ("at", MAPS, MAPS, {"p": 1.5}, r"at: p must be a positive integer, got 1\.5"),
        ("vid", MAPS, MAPS, {"initial_variance": 0}, "vid: expected initial_variance > eps > 0, got 0"),
        ("cc", MAPS[0], ROWS, {}, r"cc: a tap has shape \[5, 3, 4, 4\], expected an embedding \[B, D\]"),
        ("cc", (ROWS, ROWS), ROWS, {}, "cc: an address names 2 taps, expected one embedding"),
        ("itrd", ROWS, drawn(5, 7, 8), {}, r"itrd: a tap has shape \[5, 7, 8\], expected an embedding \[B, D\]"),
        ("itrd", ROWS, ROWS, {"alpha": 0}, "itrd: alpha must be positive, got 0"),
        ("rkd", (ROWS, ROWS), ROWS, {}, "rkd: an address names several taps"),
        ("pkt", ROWS, (ROWS, ROWS), {}, "pkt: an address names several taps"),
        ("pkt_supervised", (ROWS, ROWS), None, {}, "pkt_supervised: the address names several taps"),
        ("fsp", MAPS, MAPS[::-1], {}, r"fsp: .* \[3, 6\] channels and the teacher's \[6, 3\].*at, nst and sp"),
        ("fsp", MAPS[0], MAPS[0], {}, "fsp: it needs at least two layers"),
        ("kdsvd", MAPS, MAPS[::-1], {}, r"kdsvd: .* \[3, 6\] channels and the teacher's \[6, 3\].*at, nst and sp"),
        ("kdsvd", MAPS[0], MAPS[0], {}, "kdsvd: it needs at least two layers"),
        ("kdsvd", MAPS, MAPS, {"k": 4}, "kdsvd: a map has 3 channels or pixels, too few for k=4"),
        ("kdsvd", MAPS, MAPS, {"k": 0}, "kdsvd: k must be at least 1, got 0"),
        ("ab", MAPS[1], drawn(5, 3, 3, 3), {}, r"no regressor leads from a student map of \(2, 2\) .* of \(3, 3\)"),
        ("ab", MAPS, MAPS, {"margin": -1}, "ab: margin must not be negative, got -1"),
        ("ft", MAPS, MAPS, {}, "ft: an address names 2 taps, expected one feature map"),
        ("ft", MAPS[0], ROWS, {}, r"ft: a teacher tap has shape \[5, 8\]"),
        ("ft", MAPS[0], MAPS[0], {"rate": 0.1}, "ft: a rate of 0.1 leaves none of the teacher's 3 channels"),
        ("ft", MAPS[0], MAPS[0], {"p2": 0}, "ft: p2 must be a positive integer, got 0"),
        ("ft_paraphraser", None, MAPS, {}, "ft_paraphraser: an address names 2 taps"),
    ],
)
def test_refuses(name, student, teacher, options, message):
    with pytest.raises(ValueError, match=message):
        OBJECTIVES[name].sized(student, teacher, DATA, {}, **options)


def test_batch_statistics_are_declared_where_there_are_any():
    same, other = AB([(2, 3, 4, 4)], [(2, 3, 4, 4)]), AB([(2, 3, 4, 4)], [(2, 4, 4, 4)])
    assert not same.batch_statistics
    assert other.batch_statistics
    assert FT(3, 4).batch_statistics
    assert {kind.scope for kind in (AT, NST, FSP, VID, KDSVD, FT, AB)} == {"unit"}
    assert {kind.scope for kind in (SP, CC, RKD, PKT, PKTSupervised, ITRD)} == {"batch"}
