"""Groups of videos without labels: first-neighbour clustering with a floor on similarity.

After Sarfraz et al., "Efficient Parameter-free Clustering Using First Neighbor Relations" (CVPR 2019): two videos
belong together if one is the other's nearest neighbour, or if both have the same one; clusters are what these relations
connect. Clusters are then merged by the same rule, their mean vectors in the place of videos. There the rule links
everything to something; here only neighbours that are similar enough count, so that a video without a copy stays alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...core.neighbours import TILE_BYTES, first_neighbours


def first_neighbour_clusters(
    rows: NDArray[np.floating], min_similarity: float, rounds: int = 1, tile_bytes: int = TILE_BYTES
) -> NDArray[np.int64]:
    """Cluster vectors.

    Args:
        rows: real [N, D], of unit length.
        min_similarity: cosine below which a nearest neighbour is none.
        rounds: how often clusters are made; from the second on, of the clusters before. Ends when nothing merges.
        tile_bytes: bound on the similarities held at once.

    Returns:
        int64 [N], clusters numbered from 0 in the order of their first members.
    """
    labels_N = np.arange(len(rows), dtype=np.int64)
    for _ in range(rounds):
        means = _unit_means(np.asarray(rows, dtype=np.float32), labels_N)
        if len(means) < 2:
            break
        neighbour, similarity = first_neighbours(means, tile_bytes)
        merged = _connected(np.where(similarity >= min_similarity, neighbour, np.arange(len(means))))
        if merged.max() + 1 == len(means):
            break
        labels_N = merged[labels_N]
    return labels_N


def _unit_means(rows_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean of each cluster's rows, of unit length; float32 [C, D]."""
    if labels_N.max(initial=-1) + 1 == len(rows_ND):
        return rows_ND
    order = np.argsort(labels_N, kind="stable")
    starts = np.searchsorted(labels_N[order], np.arange(labels_N.max() + 1))
    # Cluster by cluster: the rows are never copied as a whole.
    members = np.split(order, starts[1:])
    means = np.stack([rows_ND[each].mean(axis=0) for each in members])
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def _connected(neighbour_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """Components of the graph with an edge from each to its neighbour (itself: none); numbered by first member.

    Two with the same neighbour are connected through it, so that these edges are all that is needed.
    """
    component = np.arange(len(neighbour_C))
    while True:
        # The smallest number on either side of an edge, then that one's own smallest: halves chains each time.
        low = np.minimum(component, component[neighbour_C])
        np.minimum.at(low, neighbour_C, low)
        low = np.minimum(low, low[low])
        if np.array_equal(low, component):
            return np.unique(component, return_inverse=True)[1].astype(np.int64)
        component = low
