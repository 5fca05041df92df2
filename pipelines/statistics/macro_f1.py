"""Macro-averaged F1 with a bootstrap interval that keeps clusters together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.core.records import Estimate
from pipelines.statistics.intervals import CONFIDENCE

N_RESAMPLES = 2_000
SEED = 0


def macro_f1(
    labels: Mapping[str, tuple[str, str] | None], groups: Mapping[str, str] | None = None
) -> Estimate | None:
    """Mean over the labels of F1 = 2 tp / (2 tp + fp + fn); None when nothing was scored.

    The labels are those of the targets; an answer outside of them is a miss and no label of its
    own. The interval is the percentile bootstrap over clusters, with a fixed seed; in a resample
    only the labels that occur in its targets count.

    Args:
        labels: example id -> label of the target and of the answer; None = not scored.
        groups: example id -> items that are not independent; absent = independent.
    """
    ids = [i for i, pair in labels.items() if pair is not None]
    pairs = [pair for pair in labels.values() if pair is not None]
    if not pairs:
        return None
    names = sorted({gold for gold, _ in pairs})
    index = {name: k for k, name in enumerate(names)}
    clusters = [f"group {groups[i]}" if groups and i in groups else f"item {i}" for i in ids]
    cluster_index = {name: k for k, name in enumerate(sorted(set(clusters)))}
    shape = (len(cluster_index), len(names))
    right, n_gold, n_said = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for cluster, (gold, said) in zip(clusters, pairs, strict=True):
        row = cluster_index[cluster]
        n_gold[row, index[gold]] += 1
        right[row, index[gold]] += gold == said
        if said in index:
            n_said[row, index[said]] += 1

    def f1(weights: np.ndarray) -> np.ndarray:
        """Float[Array, "resamples"] from Float[Array, "resamples clusters"]."""
        support = weights @ n_gold
        total = support + weights @ n_said
        each = np.divide(2 * (weights @ right), total, out=np.zeros_like(total), where=total > 0)
        present = support > 0
        return (each * present).sum(1) / present.sum(1)

    n_clusters = len(cluster_index)
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), N_RESAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(f1(draws.astype(float)), [tail, 1 - tail])
    mean = float(f1(np.ones((1, n_clusters)))[0])
    return Estimate(
        mean=mean,
        low=min(mean, float(low)),
        high=max(mean, float(high)),
        n_scored=len(pairs),
        n_total=len(labels),
    )
