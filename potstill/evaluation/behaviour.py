"""How two networks' answers differ class by class, how far confidence can be trusted, and maps of both, as arrays.

Letters in shapes: N samples, K classes, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from potstill.evaluation.fidelity import BINS, calibration

PERPLEXITY = 40.0
ITERATIONS = 300


def correlation(logits: np.ndarray) -> np.ndarray:
    """How the logits of the classes go together over samples, `[K, K]`.

    C = Zᵀ Z / N, where Z is `logits` `[N, K]` with each column centred and divided by its unbiased standard deviation;
    so the diagonal is (N − 1) / N. A class whose logit never changes correlates with none: its row and column are 0.

    Raises ValueError for fewer than two samples, of which no standard deviation is known.
    """
    if len(logits) < 2:
        raise ValueError(f"the correlation of logits needs at least 2 samples, got {len(logits)}")
    values = logits.astype(np.float64)
    centred = values - values.mean(0)
    spread = centred.std(0, ddof=1)
    # of a constant column rounding leaves a little, which must not be blown up to a correlation
    still = spread <= 1e-12 * np.abs(values).max(0)
    z = np.where(still, 0.0, centred / np.where(still, 1.0, spread))
    return z.T @ z / len(z)


def correlation_difference(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """`correlation` of the teacher's logits minus that of the student's, both `[N, K]`, on the same samples."""
    return correlation(teacher) - correlation(student)


def class_means(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Row k: the mean logits `[K]` of the samples of class k, NaN where there are none. `labels` `[N]`."""
    classes = logits.shape[1]
    count = np.bincount(labels, minlength=classes)[:, None]
    total = np.zeros((classes, classes))
    np.add.at(total, labels, logits)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def class_mean_difference(teacher: np.ndarray, student: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """|teacher − student| of the `class_means`, with the diagonal set to 0 (NaN rows stay NaN)."""
    found = np.abs(class_means(teacher, labels) - class_means(student, labels))
    diagonal = np.arange(len(found))
    found[diagonal, diagonal] *= 0
    return found


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """The bins of `fidelity.calibration` that have any answers, as arrays of fractions, and their `count`."""
    found = calibration(torch.from_numpy(logits), torch.from_numpy(labels), bins).bins
    kept = [bar for bar in found if bar.confidence is not None and bar.accuracy is not None]
    return {
        "low": np.array([bar.low / 100 for bar in kept]),
        "high": np.array([bar.high / 100 for bar in kept]),
        "confidence": np.array([bar.confidence for bar in kept]) / 100,
        "accuracy": np.array([bar.accuracy for bar in kept]) / 100,
        "count": np.array([bar.count for bar in kept]),
    }


def chosen(samples: int, most: int, seed: int = 0) -> np.ndarray:
    """Indices of at most `most` samples, without repetition and in order; the same for every network of a run."""
    return np.sort(np.random.default_rng(seed).permutation(samples)[:most])


def tsne(values: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """A map `[N, 2]` of `values` `[N, D]` in which neighbours stay neighbours; None for fewer than 5 samples.

    scikit-learn's t-SNE with Barnes-Hut, 300 iterations and perplexity 40, or as much as so few samples allow (a third
    of the others). It begins at the two main components, at seeded random places where there are none. One thread:
    with more the sums, and so the map, would depend on how many there are.

    L. van der Maaten, *Accelerating t-SNE using Tree-Based Algorithms*, JMLR 15, 2014.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(values) < 5:
        return None
    varies = min(values.shape[1], len(np.unique(values[:100], axis=0))) >= 2
    machine = TSNE(
        n_components=2,
        perplexity=min(PERPLEXITY, (len(values) - 1) / 3),
        init="pca" if varies else "random",
        max_iter=ITERATIONS,
        random_state=seed,
    )
    with threadpool_limits(1):
        return machine.fit_transform(values.astype(np.float32)).astype(np.float32)
