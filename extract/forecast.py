"""What an extraction will cost, measured on a sample of its videos: for ``--dry-run``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..core.engine import Engine
from ..core.progress import in_words
from ..core.seeds import generator
from ..shards.reader import ShardSet
from .decoding.tasks import Source
from .describe import Describer
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
        f"about {expected} frames ({describer.sampling.mode}), {describer.dim} dimensions each",
        f"disk: {expected * (describer.dim * 2 + 8) / 1e6:.1f} MB",
    ]
    if engine.is_main and clips:
        frames, seconds, waited, failed = _try(work, shards, describer)
        if frames:
            needed = expected * seconds / frames / engine.size
            lines.append(
                f"time: about {in_words(needed)} on {engine.size} ranks ({frames / seconds:.3g} a second on "
                f"{frames} drawn, {waited / seconds:.0%} of it waiting for decoding; {failed} clips of it failed)"
            )
    return "\n".join(lines)


def _try(work: list[Piece], shards: ShardSet, describer: Describer) -> tuple[int, float, float, int]:
    """Frames encoded, seconds, seconds of these that were waiting, clips that failed."""
    everything = [source for number, piece in enumerate(work) for _, source in piece.sources(shards.folder, number)]
    drawn = generator("forecast", shards.sha256).permutation(len(everything))[: SAMPLE_CLIPS + 1]

    def sample(numbers: list[int]) -> Iterator[Source]:
        for number in numbers:
            if time.monotonic() < deadline:
                yield everything[number]

    deadline = time.monotonic() + SAMPLE_SECONDS
    for _ in describer.describe(sample(drawn[:1].tolist())):
        pass  # children start, kernels are chosen: what is paid once
    frames, waited, failed = describer.frames_encoded, describer.pool.waited, 0
    began = time.monotonic()
    for described in describer.describe(sample(drawn.tolist())):
        failed += described.error is not None
    seconds = time.monotonic() - began
    return describer.frames_encoded - frames, seconds, describer.pool.waited - waited, failed
