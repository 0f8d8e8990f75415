"""The call for a library user: how alike are two videos?"""

from __future__ import annotations

import functools
from pathlib import Path

from ..core.errors import ReelkinError, UsageError
from .index import SearchIndex
from .query import VideoEmbedder
from .similarity import chamfer_matrix, cosine

LEVELS = ("video", "frame", "symmetric")


def similarity(
    video_a: str | Path,
    video_b: str | Path,
    model: str | Path,
    *,
    features: str | Path | None = None,
    weights: str | Path | None = None,
    level: str = "video",
) -> float:
    """How far two videos show the same thing.

        import reelkin
        print(reelkin.similarity("a.mp4", "b.mp4", model="index"))

    Args:
        video_a, video_b: video files.
        model: an index folder, which knows all that is needed, or a model (its folder, the folder of its run, or
            published weights) together with ``features``.
        features: with a model: the feature store it was trained on (its store.json is read).
        weights: the encoder's weights, where they run code (TorchScript) or are not at hand.
        level: "video" (cosine of the two embeddings), "frame" (chamfer: how well each moment of ``video_a`` is found in
            ``video_b``; not symmetric), or "symmetric" (chamfer in both directions).

    Returns:
        At most 1, which identical videos reach. How high is high depends on the model: compare with pairs that you
        know.

    Raises:
        UsageError: an argument cannot be used.
        ReelkinError: a video cannot be read, with its path and the reason.
    """
    if level not in LEVELS:
        raise UsageError(f"level is {level!r}; choose one of {', '.join(LEVELS)}")
    a, b = Path(video_a), Path(video_b)
    embedder = _embedder(*(None if path is None else str(path) for path in (model, features, weights)))
    found, rejected = embedder.embed([a, b], frames=level != "video")
    if rejected:
        first = rejected[0]
        raise ReelkinError(f"{first.path} cannot be compared ({first.reason}): {first.detail}")
    by_id = {embedding.video_id: embedding for embedding in found}
    left, right = by_id[str(a)], by_id[str(b)]
    if level == "video":
        return float(cosine(left.video[None], right.video[None])[0, 0])
    assert left.frames is not None and right.frames is not None
    return float(chamfer_matrix([left.frames], [right.frames], symmetric=level == "symmetric")[0, 0])


@functools.lru_cache(maxsize=2)
def _embedder(model: str | None, features: str | None, weights: str | None) -> VideoEmbedder:
    """Kept between calls: building an encoder takes longer than comparing two videos."""
    folder = Path(str(model))
    own_weights = None if weights is None else Path(weights)
    if (folder / "index.json").exists():
        return VideoEmbedder.of_index(SearchIndex.open(folder), weights=own_weights)
    if not (folder.is_file() or (folder / "config.json").exists()):
        raise UsageError(
            f"model={str(folder)!r} is neither an index folder (index.json) nor a model folder (config.json) nor a "
            "file of published weights"
        )
    if features is None:
        raise UsageError(
            f"{folder} is a model alone: pass features=STORE, whose encoder, PCA and sampling the model was trained "
            "on, or pass an index folder instead"
        )
    return VideoEmbedder.of_model(folder, Path(features), weights=own_weights)
