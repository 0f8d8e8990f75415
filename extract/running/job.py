"""An extraction as it was asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import Reason
from ...shards.manifest import REJECTED, VideoRow
from ...shards.reader import ShardSet
from ..storage.removed import DETAIL, read_removed


@dataclass(frozen=True)
class Job:
    """An extraction as it was asked for.

    Attributes:
        shards: what is described.
        output: folder of the store, shared by all ranks.
        pca_path: file of the describer's PCA, copied into the store.
        limit: only so many rows of the shards' manifest, the first.
        rebuild: replace features with other settings instead of refusing.
        retry: reasons for which a video was rejected here before that are worth another try.
    """

    shards: ShardSet
    output: Path
    pca_path: Path | None = None
    limit: int | None = None
    rebuild: bool = False
    retry: Collection[str] = ()

    @property
    def videos(self) -> list[VideoRow]:
        """The rows that the store is about. Videos that were taken out of the store count as rejected."""
        removed = read_removed(self.output)
        return [
            replace(video, status=REJECTED, reason=Reason.REMOVED.value, detail=DETAIL)
            if video.video_id in removed
            else video
            for video in self.shards.videos[: self.limit]
        ]
