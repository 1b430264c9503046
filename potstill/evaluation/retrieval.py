"""Retrieval: how well the nearest neighbours of a query, among features of labelled images, are of the query's class.

The protocol is that of Passalis, Tzelepi and Tefas (CVPR 2020): training images are the database, test images the
queries. Letters in shapes: N database, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from potstill.errors import did_you_mean
from potstill.functional import at_least_float32

Metric = Literal["euclidean", "cosine"]
LEVELS = tuple(level / 10 for level in range(11))
"""Of recall, at which precision is interpolated."""
GROUP = 128
"""Queries that the released code ranks at once. Its interpolation depends on it."""
AT_ONCE = 2**22
"""Most pairs of a query and a database entry that are held at once."""


@dataclass(frozen=True)
class Retrieved:
    """All in percent, means over the queries.

    `map` is the mean over eleven levels of recall of the interpolated precision (the highest at this rank or any later
    one), `top` the precision among the first so many. `map_released` and `top_released` are the same by the released
    code, whose interpolation reaches only the first 127 ranks of the list (see `retrieval`).
    """

    map: float
    top: float
    map_released: float
    top_released: float


def retrieval(
    database: Float[Tensor, "N ..."],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q ..."],
    answers: Int64[Tensor, " Q"],
    *,
    metric: Metric = "cosine",
    top: int = 100,
) -> Retrieved:
    r"""Rank the whole database for every query, and see how early entries of its class (`answers`) come.

    With $p_r$ the precision among the first r and $\rho_r$ the recall there, the average precision of a query is
    $\frac{1}{11} \sum_{l=0, 0.1, \dots, 1} \max_{q \ge r(l)} p_q$, $r(l)$ the first rank at which $|\rho_r - l|$ is
    smallest. Equal distances are ranked in the order of the database. Memory holds some million pairs at a time; there
    is no loop over single queries.

    Released variant: the released code runs its interpolation over as many ranks as there are rows in its matrix of
    precisions, which are 128 queries (fewer in the last group), instead of over all ranks. So precision is the highest
    of later ranks only within the first 128, and further down that of the rank itself; and precision among the first
    100, which it reads off after that, is the highest of ranks 100 to 128. Published numbers are by that variant.

    Raises:
        ValueError: an unknown metric, features of different widths or that are not finite, labels of another number,
            no queries, a class of a query that the database does not have, a database smaller than `top`.

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> retrieval(rows, torch.tensor([0, 0, 1, 1]), rows, torch.tensor([0, 0, 1, 1]), top=2).map
    100.0
    """
    if metric not in get_args(Metric):
        raise ValueError(f"unknown metric {metric!r}; {did_you_mean(metric, get_args(Metric))}")
    database, queries = (at_least_float32(side.detach()).flatten(1) for side in (database, queries))
    _check(database, labels, queries, answers, top)
    if metric == "cosine":
        database, queries = F.normalize(database, dim=1), F.normalize(queries, dim=1)
        size = None
    else:  # moved to the origin, where rounding is finest; distances stay
        centre = database.mean(0)
        database, queries = database - centre, queries - centre
        size = database.square().sum(1) / 2
    classes, names = _numbered(labels, answers)
    relevant = torch.bincount(classes, minlength=int(names.max()) + 1)[names]
    if not bool((relevant > 0).all()):
        missing = answers[relevant == 0][0].item()
        raise ValueError(f"a query is of class {missing}, of which the database has no entry")
    sums = torch.zeros(4, dtype=torch.float64, device=queries.device)
    for part, window in _chunks(len(queries), len(database)):
        near = queries[part] @ database.T
        near = near if size is None else near - size
        order = near.argsort(dim=1, descending=True, stable=True)
        sums += _measured(classes[order] == names[part, None], relevant[part], window, top)
    return Retrieved(*(100 * sums / len(queries)).tolist())


def _measured(right: Bool[Tensor, "q N"], relevant: Int64[Tensor, " q"], window: int, top: int) -> Float[Tensor, "4"]:
    """Sums over some queries of: average precision, precision at `top`, and both as released."""
    hits = right.cumsum(1, dtype=torch.int32)
    precision = hits / torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    rank = _ranks(hits, relevant)
    plain = precision[:, top - 1].sum()
    released = precision.clone()
    released[:, :window] = _highest_later(precision[:, :window])
    found = [_highest_later(precision).gather(1, rank).mean(1).sum(), plain]
    found += [released.gather(1, rank).mean(1).sum(), released[:, top - 1].sum()]
    return torch.stack(found)


def _ranks(hits: Tensor, relevant: Int64[Tensor, " q"]) -> Int64[Tensor, "q 11"]:
    """The first rank at which recall is nearest to each level."""
    levels = torch.tensor(LEVELS, dtype=torch.float64, device=hits.device)
    most = relevant[:, None, None]
    # Recall is a count over `relevant`: the nearest is one of three, and the smaller one where two are as near.
    count = (levels[:, None] * most).round().long() + torch.arange(-1, 2, device=hits.device)
    count = count.clamp(min=0).minimum(most)
    nearest = (count.double() / most - levels[:, None]).abs().argmin(2, keepdim=True)
    return torch.searchsorted(hits, count.gather(2, nearest)[..., 0].to(hits.dtype))


def _highest_later(precision: Tensor) -> Tensor:
    """Of each rank, the highest at it or later."""
    return precision.flip(1).cummax(1).values.flip(1)


def _chunks(queries: int, database: int) -> Iterator[tuple[slice, int]]:
    """Parts of the queries that fit into memory, none across a border of the released groups, each with the ranks over
    which the released code interpolates.
    """
    step = max(1, min(GROUP, AT_ONCE // database))
    for start in range(0, queries, GROUP):
        end = min(start + GROUP, queries)
        for first in range(start, end, step):
            yield slice(first, min(first + step, end)), min(end - start, database)


def _numbered(labels: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Both with classes numbered from 0."""
    every = torch.cat([labels, answers]).unique(return_inverse=True)[1]
    return every[: len(labels)], every[len(labels) :]


def _check(database: Tensor, labels: Tensor, queries: Tensor, answers: Tensor, top: int) -> None:
    if database.shape[1] != queries.shape[1]:
        raise ValueError(f"database and queries have different widths, {database.shape[1]} and {queries.shape[1]}")
    for what, rows, names in (("database", database, labels), ("queries", queries, answers)):
        if names.shape != rows.shape[:1]:
            raise ValueError(f"{what}: {len(rows)} features and labels of shape {list(names.shape)}")
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{what}: some features are NaN or infinite")
    if len(queries) == 0:
        raise ValueError("there are no queries")
    if not 1 <= top <= len(database):
        raise ValueError(f"top must lie between 1 and the size of the database, {len(database)}; got {top}")


def nearest_centroid(
    database: Float[Tensor, "N ..."],
    labels: Int64[Tensor, " N"],
    queries: Float[Tensor, "Q ..."],
    answers: Int64[Tensor, " Q"],
) -> float:
    """Percent of the queries whose nearest class mean of the database, by Euclidean distance, is their own class's.

    An accuracy for networks that learnt features and no classifier.

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> nearest_centroid(rows, torch.tensor([0, 0, 1, 1]), rows, torch.tensor([0, 1, 1, 1]))
    75.0
    """
    database, queries = (at_least_float32(side.detach()).flatten(1) for side in (database, queries))
    _check(database, labels, queries, answers, 1)
    names, place = labels.unique(return_inverse=True)
    count = torch.bincount(place)[:, None]
    means = database.new_zeros(len(names), database.shape[1]).index_add_(0, place, database) / count
    nearest = torch.cat([torch.cdist(part, means).argmin(1) for part in queries.split(4096)])
    return 100 * (names[nearest] == answers).double().mean().item()
