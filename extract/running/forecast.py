"""What an extraction will cost, measured on a sample of its videos: for ``--dry-run``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ...core.engine import Engine
from ...core.progress import in_words
from ...core.seeds import generator
from ...shards.reader import ShardSet
from ..decoding.tasks import Source
from ..describe import Describer
from .work import Piece, expected_frames, list_work

SAMPLE_SECONDS = 20.0
SAMPLE_CLIPS = 24


def forecast(shards: ShardSet, limit: int | None, describer: Describer, engine: Engine) -> str:
    """Counts, disk and time. Rank 0 decodes and encodes some clips, drawn at random, for at most `SAMPLE_SECONDS`."""
    videos = shards.videos[:limit]
    work = list_work(shards, videos, describer.sampling)
    accepted = [video for piece in work for video in piece.videos]
    clips = [clip for piece in work for rows in piece.clips.values() for clip in rows]
    expected = sum(expected_frames(clip, describer.sampling) for clip in clips)
    hours = sum(video.duration_seconds for video in accepted) / 3600
    lines = [
        f"{len(accepted)} videos in {len(work)} blocks, {hours:.2f} hours; {len(videos) - len(accepted)} rejected",
    ]
    features, time_line = expected, []
    if engine.is_main and clips:
        tried = _try(work, shards, describer)
        if tried.features:
            features = round(expected * tried.features / tried.expected)
            needed = expected * tried.seconds / tried.expected / engine.size
            time_line.append(
                f"time: about {in_words(needed)} on {engine.size} ranks ({tried.features / tried.seconds:.3g} a second "
                f"on {tried.features} drawn, {tried.waited / tried.seconds:.0%} of it waiting for decoding; "
                f"{tried.failed} clips of it failed)"
            )
    what = "frames" if describer.encoder.window.frames == 1 else "windows of frames"
    lines += [
        f"about {features} {what} ({describer.sampling.mode}), {describer.dim} dimensions each",
        f"disk: {features * (describer.dim * 2 + 8) / 1e6:.1f} MB",
        *time_line,
    ]
    return "\n".join(lines)


@dataclass
class _Tried:
    """What came of the clips that were drawn: features, of so many samples as were expected; what they took."""

    features: int = 0
    expected: int = 0
    failed: int = 0
    seconds: float = 0.0
    waited: float = 0.0


def _try(work: list[Piece], shards: ShardSet, describer: Describer) -> _Tried:
    everything = [source for number, piece in enumerate(work) for _, source in piece.sources(shards.folder, number)]
    expected = {
        clip.key: expected_frames(clip, describer.sampling)
        for piece in work
        for rows in piece.clips.values()
        for clip in rows
    }
    drawn = generator("forecast", shards.sha256).permutation(len(everything))[: SAMPLE_CLIPS + 1]

    def sample(numbers: list[int]) -> Iterator[Source]:
        for number in numbers:
            if time.monotonic() < deadline:
                yield everything[number]

    deadline = time.monotonic() + SAMPLE_SECONDS
    for _ in describer.describe(sample(drawn[:1].tolist())):
        pass  # children start, kernels are chosen: what is paid once
    tried, waited, began = _Tried(), describer.pool.waited, time.monotonic()
    for described in describer.describe(sample(drawn.tolist())):
        tried.features += len(described.features)
        tried.expected += expected[described.source.key]
        tried.failed += described.error is not None
    tried.seconds = time.monotonic() - began
    tried.waited = describer.pool.waited - waited
    return tried
