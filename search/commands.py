"""The two commands of search: their configurations and what they print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.config import as_dict
from ..core.errors import ExitCode, ReelkinError, UsageError
from ..core.files import publish_json, sha256_file
from ..extract.store import FeatureStore
from ..train.embed import Embedding, iter_embeddings
from .index import Hit, SearchIndex, build_index, refuse_other_folder
from .query import Rejected, VideoEmbedder
from .text import shown

FORMAT, VERSION = "reelkin-matches", 1


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Embed every video of a feature store and publish an index folder that depends on nothing outside itself."""

    features: Path
    """Feature store."""
    output: Path
    """Index folder; an older index there is replaced."""
    model: Path | None = None
    """Model folder, run folder or published weights (.pth), copied into the index. Default: mean pooling, which needs
    no training."""
    frames: bool = True
    """Keep frame embeddings too, for query --level frame."""
    max_memory_gb: float = 8.0
    """Refuse to start if the video embeddings would need more, in 10^9 bytes."""
    dry_run: bool = False
    """Print the configuration, counts and sizes, and stop."""


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """Find the videos of an index that show what given videos show."""

    index: Path
    """Index folder."""
    videos: tuple[Path, ...] = ()
    """Raw video files; described with the index's own encoder, PCA and sampling."""
    features: Path | None = None
    """Instead of --videos: a feature store, each of whose videos is a query; refused if made otherwise."""
    weights: Path | None = None
    """The encoder's weights; needed for TorchScript files, and compared with the recorded sha256. Default: as
    recorded."""
    top: int = 10
    """Videos found per query."""
    level: Literal["video", "frame"] = "video"
    """video: cosine of video embeddings. frame: the best candidates of that are ordered by chamfer similarity."""
    symmetric: bool = False
    """With --level frame: average both directions. Default: how well the query is found in the candidate."""
    candidates: int = 100
    """With --level frame: how many of the best by cosine are looked at."""
    output: Path | None = None
    """JSON file for the matches. Default: print only."""

    def __post_init__(self) -> None:
        if bool(self.videos) == bool(self.features):
            raise UsageError("give what to search for: either --videos PATH ... or --features STORE")
        if self.top < 1 or self.candidates < 1:
            raise UsageError(f"--top {self.top} and --candidates {self.candidates} must be at least 1")


def run_index(config: IndexConfig) -> int:
    """Build an index and say what was built."""
    refuse_other_folder(config.output)
    store = FeatureStore.open(config.features)
    num_frames = sum(store.num_frames(video_id) for video_id in store.video_ids)
    vectors = 4 * len(store) * store.dim
    print(
        f"{len(store)} videos ({len(store.rejects)} rejected ones are left out), {num_frames} frames, {store.dim} "
        f"dimensions: {vectors / 1e6:.3g} MB of video embeddings, twice on disk"
        + (f", {2 * num_frames * store.dim / 1e6:.3g} MB of frame embeddings" if config.frames else "")
    )
    if config.dry_run:
        print(json.dumps(as_dict(config), indent=2))
        return ExitCode.OK
    if 3 * vectors > config.max_memory_gb * 1e9:  # the rows as they come, the matrix, and faiss' own copy
        raise ReelkinError(
            f"the video embeddings need about {3 * vectors / 1e9:.1f} GB, over --max-memory-gb "
            f"{config.max_memory_gb}; raise it, or fit a PCA with fewer components"
        )
    index = build_index(store, config.output, config.model, frames=config.frames)
    print(f"written: {index!r}")
    return ExitCode.OK


def run_query(config: QueryConfig) -> int:
    """Search, print a table per query, and write the matches. Exit code 3 if some queries could not be read."""
    index = SearchIndex.open(config.index)
    found, rejected = _embed_queries(config, index)
    matches = {embedding.video_id: find(index, embedding, config) for embedding in found}
    for video, hits in matches.items():
        print(table(video, hits, config.level))
    for bad in rejected:
        print(f"\n{shown(bad.path)}: not searched ({bad.reason}): {shown(bad.detail)}")
    if config.output:
        publish_json(config.output, matches_json(config, index, matches, rejected))
        print(f"\nwritten: {config.output}")
    if not matches:
        raise ReelkinError(f"none of the {len(rejected)} queries could be read; the reasons stand above")
    return ExitCode.REJECTS if rejected else ExitCode.OK


def _embed_queries(config: QueryConfig, index: SearchIndex) -> tuple[list[Embedding], list[Rejected]]:
    frames = config.level == "frame"
    if config.features is None:
        return VideoEmbedder.of_index(index, weights=config.weights).embed(config.videos, frames=frames)
    store = FeatureStore.open(config.features)
    index.check_features(store.info, str(config.features))
    found = {e.video_id: e for e in iter_embeddings(index.model, store, store.video_ids, frames=frames)}
    return [found[video_id] for video_id in store.video_ids], []


def find(index: SearchIndex, query: Embedding, config: QueryConfig) -> list[Hit]:
    """The best matches of one query at the level asked for."""
    if config.level == "video":
        return index.search(query.video[None], config.top)[0]
    assert query.frames is not None
    candidates = index.search(query.video[None], max(config.candidates, config.top))[0]
    return index.rerank(query.frames, candidates, symmetric=config.symmetric)[: config.top]


def table(video: str, hits: Sequence[Hit], level: str) -> str:
    """Matches of one query as lines of text."""
    heading = "cosine" if level == "video" else "chamfer"
    lines = [f"\n{shown(video)}", f"  {'rank':>4}  {heading:>7}  video"]
    lines += [f"  {rank:>4}  {hit.score:>7.4f}  {shown(hit.video_id)}" for rank, hit in enumerate(hits, 1)]
    return "\n".join(lines)


def matches_json(
    config: QueryConfig, index: SearchIndex, matches: dict[str, list[Hit]], rejected: Sequence[Rejected]
) -> dict[str, Any]:
    """The content of the file that ``--output`` names."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "index_sha256": sha256_file(index.path / "index.json"),
        "model": index.info["model"],
        "config": as_dict(config),
        "queries": [
            {
                "video": video,
                "matches": [
                    {"rank": rank, "video_id": hit.video_id, "score": hit.score} for rank, hit in enumerate(hits, 1)
                ],
            }
            for video, hits in matches.items()
        ],
        "rejected": [{"video": bad.path, "reason": str(bad.reason), "detail": bad.detail} for bad in rejected],
    }
