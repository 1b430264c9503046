"""Retrieval metrics against plain loops: scikit-learn's distances, and the released code's loop word for word."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid, NearestNeighbors

import potstill.evaluation.retrieval as module
from potstill.evaluation.retrieval import nearest_centroid, retrieval


def data(queries=300, rows=240, classes=4, seed=0):
    """Features of overlapping classes of unequal size, labelled 7, 8, …; no two distances are equal."""
    rng = np.random.default_rng(seed)
    names = rng.choice(classes, rows + queries, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    features = rng.normal(size=(classes, 5))[names] + 1.5 * rng.normal(size=(rows + queries, 5)) + 3
    split = features[:rows], 7 + names[:rows], features[rows:], 7 + names[rows:]
    return tuple(torch.from_numpy(part) for part in split)


def ranked(case, metric):
    """For each query, whether the entry at each rank is of its class."""
    database, labels, queries, answers = (part.numpy() for part in case)
    found = NearestNeighbors(n_neighbors=len(database), algorithm="brute", metric=metric).fit(database)
    return labels[found.kneighbors(queries)[1]] == answers[:, None]


def by_loops(case, metric, top, last=None):
    """Eleven-point mean average precision and precision at `top`. `last(rows)` says how far interpolation reaches, for
    128 queries at a time; without it, everywhere, and not before `top` is read off.
    """
    right, answers, labels = ranked(case, metric), case[3].numpy(), case[1].numpy()
    averages, tops = [], []
    for start in range(0, len(right), 128):
        group = right[start : start + 128]
        precision = np.cumsum(group, axis=1) / np.arange(1, group.shape[1] + 1)
        if last is None:
            tops += [row[:top].mean() for row in group]
        end = precision.shape[1] - 1 if last is None else last(precision)
        for i in reversed(range(end)):
            precision[:, i] = np.maximum(precision[:, i], precision[:, i + 1])
        if last is not None:
            tops += list(precision[:, top - 1])
        for row, hits, name in zip(precision, group, answers[start : start + 128], strict=True):
            recall = np.cumsum(hits) / (labels == name).sum()
            averages.append(np.mean([row[np.argmin(np.abs(recall - level))] for level in np.arange(0, 1.01, 0.1)]))
    return 100 * np.mean(averages), 100 * np.mean(tops)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("at_once", [module.AT_ONCE, 3000])
def test_both_variants_are_those_of_plain_loops(metric, at_once, monkeypatch):
    """300 queries: two groups of 128 and a smaller one. Memory for all of a group, and for 12 queries at a time."""
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    case = data()
    found = retrieval(*case, metric=metric, top=20)
    assert (found.map, found.top) == pytest.approx(by_loops(case, metric, 20), rel=1e-12)
    released = by_loops(case, metric, 20, last=lambda precision: len(precision) - 1)
    assert (found.map_released, found.top_released) == pytest.approx(released, rel=1e-12)
    assert found.map > found.map_released
    assert found.top < found.top_released


def test_scaling_and_moving_features():
    case = data(queries=40)
    database, labels, queries, answers = case
    moved = retrieval(database * 3 + 500, labels, queries * 3 + 500, answers, metric="euclidean", top=5)
    assert moved == retrieval(*case, metric="euclidean", top=5)
    row_wise = torch.rand(len(queries), 1) + 0.5
    assert retrieval(database, labels, queries * row_wise, answers, top=5) == retrieval(*case, top=5)


def test_what_is_the_same_everywhere_is_ranked_in_the_order_of_the_database():
    labels, answers = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1])
    found = retrieval(torch.ones(4, 3), labels, torch.ones(2, 3), answers, top=2)
    assert found.top == 50
    assert found.map == pytest.approx((100 + 50) / 2)


def test_maps_in_bfloat16_are_flattened():
    rows = torch.eye(4).repeat(2, 1).reshape(8, 2, 2, 1).to(torch.bfloat16)
    labels = torch.arange(8) % 4
    assert retrieval(rows, labels, rows, labels, top=2).top == 100


def test_nearest_centroid_is_scikit_learns():
    database, labels, queries, answers = data(seed=1)
    reference = NearestCentroid().fit(database.numpy(), labels.numpy())
    expected = 100 * reference.score(queries.numpy(), answers.numpy())
    assert nearest_centroid(database, labels, queries, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"metric": "euclidian"}, "did you mean 'euclidean'"),
        ({"top": 241}, "size of the database, 240; got 241"),
        ({"queries": torch.zeros(3, 4)}, "different widths, 5 and 4"),
        ({"answers": torch.zeros(2)}, "300 features and labels of shape \\[2\\]"),
        ({"answers": torch.full((300,), 99)}, "a query is of class 99, of which the database has no entry"),
        ({"database": torch.full((240, 5), torch.nan)}, "database: some features are NaN or infinite"),
        ({"queries": torch.zeros(0, 5), "answers": torch.zeros(0)}, "there are no queries"),
    ],
)
def test_what_is_wrong_is_said(change, says):
    case = dict(zip(("database", "labels", "queries", "answers"), data(), strict=True), top=20)
    with pytest.raises(ValueError, match=says):
        retrieval(**{**case, **change})
