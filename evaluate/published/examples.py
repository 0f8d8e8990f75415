"""What a report shows of single videos: their frames, and the similarities of two videos' frames."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.errors import ReelkinError
from ...search.text import shown
from ...train.embed import embed_frames
from ..evaluation import frame_strip
from ..reporting.page import Strips
from .annotation import Annotation
from .scores import Videos

log = logging.getLogger("reelkin.evaluate")

LONGEST = 4096
"""Frames; matrices of longer videos are not shown, since a model looks at a whole video at once."""


def open_strips(shards: Path, annotation: Annotation) -> Strips:
    """What gives frames uint8 [H, W, 3] of a video by its id in the annotation; none of one that cannot be shown.

    Raises:
        ReelkinError: the shards cannot be read.
    """
    from ...shards.reader import ShardSet

    opened = ShardSet.open(shards)
    given = {annotation.normal_id(row.video_id): row.video_id for row in opened.videos}

    @functools.cache
    def strips(video_id: str) -> list[NDArray[np.uint8]]:
        try:
            return frame_strip(opened, given.get(video_id, video_id))
        except ReelkinError as error:  # figures that may have taken hours are worth more than a picture
            log.warning("no picture of %s: %s", shown(video_id), error)
            return []

    return strips


class FrameMatrices:
    """Similarities of two videos' frame embeddings; see `reporting.matrices.Matrices`.

    Args:
        videos: features and the model.
        given: ids of the features by those of the annotation.
        device: where frames are embedded.
    """

    def __init__(self, videos: Videos, given: Mapping[str, str], device: torch.device | str = "cpu") -> None:
        self.videos, self.given, self.device = videos, given, device
        self._frames = functools.lru_cache(maxsize=8)(self._embedded)

    def __call__(self, query: str, video_id: str) -> NDArray[np.floating] | None:
        """float32 [Tq, Tv], or None if one of the videos has no features or is too long."""
        query_TD, video_TD = self._frames(query), self._frames(video_id)
        if query_TD is None or video_TD is None:
            return None
        return query_TD.astype(np.float32) @ video_TD.astype(np.float32).T

    def _embedded(self, video_id: str) -> NDArray[np.float16] | None:
        source, name = self.videos.source, self.given.get(video_id, video_id)
        if name not in source or not 0 < source.num_frames(name) <= LONGEST:
            return None
        return embed_frames(self.videos.model, source, [name], device=self.device)[0]
