"""The one place that says which embeddings may be pushed apart.

Videos carry group numbers (see `positives`): first that of their connected component in everything known to show the
same thing, then those of other components of which they show a part. An anchor's own video, its positives, and
whatever is joined to them by a chain of positives share the first, so "no group in common" is the whole rule, in the
batch and in the queue alike.
"""

from __future__ import annotations

import torch

NO_VIDEO = -1
"""Video and group number of a slot that holds nothing."""


def valid_negatives(anchor_groups: torch.Tensor, candidate_groups: torch.Tensor) -> torch.Tensor:
    """Which candidates may be negatives of which anchors.

    Args:
        anchor_groups: int64 [N, G], the first column at least 0: every video has a component, if only its own.
        candidate_groups: int64 [K, G]; `NO_VIDEO` in the first column marks an empty slot, in others no further group.

    Returns:
        bool [N, K], true where the candidate holds a video that shares no group with the anchor.

    Raises:
        ValueError: an anchor without a group: its own copies could not be told from negatives.
    """
    if len(anchor_groups) and int(anchor_groups[:, 0].min()) < 0:
        raise ValueError("an anchor has no group number; give every video the number of its connected component")
    valid = (candidate_groups[None, :, 0] != NO_VIDEO).expand(len(anchor_groups), -1)
    for own in anchor_groups.unbind(1):
        for other in candidate_groups.unbind(1):
            valid = valid & ~((own[:, None] == other[None, :]) & (own[:, None] != NO_VIDEO))
    return valid


def same_component(anchor_groups: torch.Tensor, candidate_groups: torch.Tensor) -> torch.Tensor:
    """Which candidates show the same as which anchors: bool [N, K], true where the first groups are equal.

    Arguments as `valid_negatives`. A candidate that shares another group only, by showing a part, is neither a positive
    nor a negative.
    """
    return anchor_groups[:, :1] == candidate_groups[None, :, 0]
