"""The index: video embeddings in faiss, frame embeddings beside them, and all that is needed to embed a query alike.

An index is a folder that depends on nothing outside itself but the encoder's weights (recorded by hash):

    index.faiss               exact inner product over the video embeddings
    embeddings.safetensors    embeddings float32 [V, D], rows of unit length
    videos.parquet            video_id, num_frames, duration_seconds; row r is row r of the embeddings
    frames/                   feature store of frame embeddings (float16), for re-ranking; may be absent
    model/                    the model that made the embeddings
    pca.safetensors           the PCA of the features, if they have one
    index.json                published last: sizes and hashes of all of these, encoder, PCA, sampling, model
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray
from torch import nn

from ..core.errors import ReelkinError, UsageError
from ..core.files import (
    is_partial,
    publish_json,
    publish_table,
    publish_text,
    publishing,
    publishing_folder,
    read_json,
    read_table,
    remove_partials,
    sha256_file,
)
from ..core.progress import Progress
from ..extract.describe import COMPARED
from ..extract.store import FeatureStore, write_store
from ..train.checkpoint import load_model, open_model, save_model
from ..train.embed import iter_embeddings
from ..train.models.aggregators import MeanPooling, MeanPoolingConfig
from .embed import check_model
from .similarity import chamfer_matrix, unit_rows

FORMAT, VERSION = "reelkin-index", 1
PCA_FILE = "pca.safetensors"
UNFINISHED, MARKER = "UNFINISHED", "a reelkin-index is being built here, or its building was stopped\n"
"""Stands in the folder while an index is being built there: what a killed build leaves may be replaced."""
FEATURE_KEYS = ("dim", "encoder", "pca", "sampling")
"""What of a feature store must agree between an index and its queries."""


@dataclass(frozen=True)
class Hit:
    """A video found: its id and its score (cosine, or chamfer after re-ranking)."""

    video_id: str
    score: float


def build_index(
    store: FeatureStore,
    output: str | Path,
    model: str | Path | None = None,
    *,
    frames: bool = True,
) -> SearchIndex:
    """Embed every video of a store and publish an index.

    Args:
        store: features.
        output: folder; an older or unfinished index there is replaced, anything else is refused.
        model: model folder, run folder or published weights (`train.checkpoint.open_model`), copied into the index.
            Default: mean pooling, for which nothing need be trained.
        frames: keep frame embeddings, for search at frame level.

    Raises:
        UsageError: ``output`` holds something that is no index.
        ReelkinError: the store is empty or lacks its PCA, the model takes other features, or an embedding is
            not finite.
    """
    output = Path(output)
    ids = store.video_ids
    if not ids:
        raise ReelkinError(f"{store.path} holds no video with features, so there is nothing to index")
    loaded = open_model(model) if model else None
    module = loaded.module if loaded else MeanPooling(MeanPoolingConfig(dim=store.dim))
    check_model(module, store, loaded, store.info)
    refuse_other_folder(output)
    publish_text(output / UNFINISHED, MARKER)
    remove_partials(output)
    (output / "index.json").unlink(missing_ok=True)  # from here on the folder is no index until it is whole again
    embedding_VD = _embed_all(store, output, module, frames)
    _write_vectors(output, embedding_VD)
    publish_table(output / "videos.parquet", _videos_table(store))
    if loaded and loaded.folder:
        with publishing_folder(output / "model") as temporary:
            shutil.copytree(loaded.folder, temporary, dirs_exist_ok=True)
    else:
        facts = loaded.facts if loaded else {"trained on": "nothing: mean pooling has no parameter"}
        save_model(module, output / "model", facts)
    features = _copy_pca(store, output)
    info = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "Flat",
        "metric": "inner-product",
        "num_videos": len(ids),
        "embedding_dim": int(embedding_VD.shape[1]),
        "frames": frames,
        "features": features,
        "store_sha256": sha256_file(store.path / "store.json"),
        "model": {"aggregator": module.name, "sha256": sha256_file(output / "model" / "model.safetensors")},
    }
    info["files"] = {name: _fingerprint(output / name) for name in _listed_files(output)}
    publish_json(output / "index.json", info)
    (output / UNFINISHED).unlink()
    return SearchIndex.open(output)


def _videos_table(store: FeatureStore) -> pa.Table:
    """A row per video, in the store's order."""
    ids = store.video_ids
    columns = {
        "video_id": pa.array(ids, pa.string()),
        "num_frames": pa.array([store.num_frames(video_id) for video_id in ids], pa.int64()),
        "duration_seconds": pa.array([store.row(video_id).duration_seconds for video_id in ids], pa.float64()),
    }
    return pa.table(columns)


def refuse_other_folder(output: Path) -> None:
    """Raise UsageError when ``output`` holds anything but an index, finished or not: building one replaces files."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"output: {output} is a file; name a folder")
    names = sorted(path.name for path in output.iterdir() if not is_partial(path))
    if not names or (UNFINISHED in names and (output / UNFINISHED).read_text(errors="replace") == MARKER):
        return
    info = read_json(output / "index.json") if "index.json" in names else None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UsageError(
            f"output: {output} is not empty and holds no index ({names[0]!r}); name an empty or a new folder"
        )


def _copy_pca(store: FeatureStore, output: Path) -> dict[str, Any]:
    """Bring the store's PCA into the index; returns what made the features, as index.json records it."""
    features = {key: store.info.get(key) for key in FEATURE_KEYS}
    (output / PCA_FILE).unlink(missing_ok=True)
    if recorded := features["pca"]:
        pca = store.path / str(recorded.get("file"))
        if not pca.is_file() or sha256_file(pca) != recorded.get("sha256"):
            raise ReelkinError(
                f"{pca} is missing or not the PCA that the features were made with; copy the store again"
            )
        with publishing(output / PCA_FILE) as temporary:
            shutil.copyfile(pca, temporary)
        features["pca"] = {**recorded, "file": PCA_FILE}
    return features


def _embed_all(store: FeatureStore, output: Path, model: nn.Module, frames: bool) -> NDArray[np.float32]:
    """Video embeddings [V, D] in store order; frame embeddings go to ``frames/`` as they come."""
    row_of = {video_id: row for row, video_id in enumerate(store.video_ids)}
    rows: list[NDArray[np.float32] | None] = [None] * len(row_of)

    def embedded() -> Iterator[tuple[str, tuple[NDArray[np.float32], NDArray[np.float64]]]]:
        with Progress(len(rows), "videos", "embedding") as progress:
            for found in iter_embeddings(model, store, store.video_ids, frames=frames):
                rows[row_of[found.video_id]] = found.video
                progress.advance()
                if found.frames is not None:
                    yield found.video_id, (found.frames, store.times(found.video_id))

    shutil.rmtree(output / "frames", ignore_errors=True)
    if frames:
        write_store(output / "frames", embedded(), {key: store.info.get(key) for key in ("sampling", "decoder")})
    else:
        for _ in embedded():
            pass
    return np.stack([row for row in rows if row is not None])


def _write_vectors(output: Path, embedding_VD: NDArray[np.float32]) -> None:
    import faiss

    with publishing(output / "embeddings.safetensors") as temporary:
        safetensors.numpy.save_file({"embeddings": embedding_VD}, temporary)
    index = faiss.IndexFlatIP(embedding_VD.shape[1])
    index.add(np.ascontiguousarray(embedding_VD))
    with publishing(output / "index.faiss") as temporary:
        faiss.write_index(index, str(temporary))


def _listed_files(output: Path) -> list[str]:
    """Files that index.json vouches for, relative to the folder."""
    names = ["index.faiss", "embeddings.safetensors", "videos.parquet"]
    names += [name for name in (PCA_FILE,) if (output / name).exists()]
    for folder in ("model", "frames"):
        names += sorted(str(path.relative_to(output)) for path in (output / folder).rglob("*") if path.is_file())
    return names


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


class SearchIndex:
    """An opened index.

    Attributes:
        path: its folder.
        info: index.json.
        video_ids: ids in row order.
    """

    def __init__(self, path: Path, info: dict[str, Any], video_ids: list[str]) -> None:
        self.path = path
        self.info = info
        self.video_ids = video_ids

    @classmethod
    def open(cls, path: str | Path) -> SearchIndex:
        """Open an index. Every file is compared with index.json before anything reads it.

        Raises:
            ReelkinError: a file is missing or changed, or the format is another one; says what to do.
        """
        path = Path(path)
        if not (path / "index.json").exists():
            raise ReelkinError(
                f"{path} is no finished index (no index.json); run search/run.py index --features STORE --output {path}"
            )
        info = read_json(path / "index.json")
        if not isinstance(info, dict) or (info.get("format"), info.get("version")) != (FORMAT, VERSION):
            raise ReelkinError(f"{path}/index.json is no {FORMAT} {VERSION}; index the store again")
        for name, expected in info["files"].items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ReelkinError(f"{path}/index.json lists {name!r}, outside the index; index the store again")
            if not (path / name).is_file():
                raise ReelkinError(f"{path / name} is missing; copy the whole index again, or index the store again")
            if _fingerprint(path / name) != expected:
                raise ReelkinError(
                    f"{path / name} has changed since the index was built (its sha256 is not the one in index.json), "
                    "so it is not read; copy the index again, or index the store again"
                )
        video_ids = read_table(path / "videos.parquet").column("video_id").to_pylist()
        if len(video_ids) != info["num_videos"]:
            raise ReelkinError(f"{path}/videos.parquet has {len(video_ids)} rows instead of {info['num_videos']}")
        return cls(path, info, video_ids)

    def __len__(self) -> int:
        return len(self.video_ids)

    def __repr__(self) -> str:
        return (
            f"SearchIndex({str(self.path)!r}: {len(self)} videos, D = {self.info['embedding_dim']}, "
            f"{self.info['model']['aggregator']})"
        )

    @functools.cached_property
    def model(self) -> nn.Module:
        """The model that made the embeddings, in eval mode."""
        return load_model(self.path / "model")

    @functools.cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """Video embeddings [V, D]."""
        return safetensors.numpy.load_file(self.path / "embeddings.safetensors")["embeddings"]

    @functools.cached_property
    def frame_store(self) -> FeatureStore:
        """Frame embeddings. Raises ReelkinError if the index was built without."""
        if not self.info["frames"]:
            raise ReelkinError(f"{self.path} holds no frame embeddings; for --level frame build it without --no-frames")
        return FeatureStore.open(self.path / "frames")

    @functools.cached_property
    def _faiss(self) -> Any:
        import faiss

        # The hash has been checked; the limits are a second line, for an index.json that lies.
        size = (self.path / "index.faiss").stat().st_size
        for limit in ("set_deserialization_vector_byte_limit", "set_deserialization_loop_limit"):
            if hasattr(faiss, limit):
                getattr(faiss, limit)(size)
        index = faiss.read_index(str(self.path / "index.faiss"))
        if index.ntotal != len(self) or index.d != self.info["embedding_dim"]:
            raise ReelkinError(
                f"{self.path}/index.faiss holds {index.ntotal} x {index.d} values instead of {len(self)} x "
                f"{self.info['embedding_dim']}; index the store again"
            )
        return index

    def search(self, queries: NDArray[np.floating], top: int = 10) -> list[list[Hit]]:
        """The videos with the largest cosine, best first; equal scores in index order.

        Args:
            queries: video embeddings [Q, D] by the index's own model.
            top: hits per query.
        """
        query_QD = np.ascontiguousarray(unit_rows(queries))
        if query_QD.ndim != 2 or query_QD.shape[1] != self.info["embedding_dim"]:
            width = self.info["embedding_dim"]
            raise ReelkinError(f"queries have the shape {query_QD.shape}; this index holds {width} dimensions")
        scores, rows = self._faiss.search(query_QD, min(top, len(self)))
        hits = []
        for score_K, row_K in zip(scores, rows, strict=True):
            order = np.lexsort((row_K, -score_K))
            hits.append([Hit(self.video_ids[row_K[i]], float(score_K[i])) for i in order if row_K[i] >= 0])
        return hits

    def rerank(self, query_frames: NDArray[np.floating], hits: Sequence[Hit], *, symmetric: bool = False) -> list[Hit]:
        """Order candidates by the chamfer similarity of their frames with the query's.

        Args:
            query_frames: [T, D] frame embeddings by the index's own model.
            hits: candidates of `search`; take more of them than are wanted in the end.
            symmetric: average both directions.
        """
        if not hits:
            return []
        targets = [self.frame_store.features(hit.video_id) for hit in hits]
        scores = chamfer_matrix([query_frames], targets, symmetric=symmetric)[0]
        ranked = [Hit(hit.video_id, float(score)) for hit, score in zip(hits, scores, strict=True)]
        return sorted(ranked, key=lambda hit: -hit.score)

    def check_features(self, info: dict[str, Any], what: str) -> None:
        """Refuse features that were made otherwise than the index's.

        Args:
            info: of a feature store, or an equal description of query features.
            what: named in the message.

        Raises:
            ReelkinError: with every difference, both sides named.
        """
        own = self.info["features"]
        differences = [
            f"{key}: the index has {_short(own.get(key))}, {what} has {_short(info.get(key))}"
            for key in FEATURE_KEYS
            if _comparable(own.get(key)) != _comparable(info.get(key))
        ]
        if differences:
            raise ReelkinError(
                f"{what} cannot be searched in {self.path}: " + "; ".join(differences) + ". Use the same encoder, PCA "
                "and sampling, or build the index anew"
            )


def _comparable(value: Any) -> Any:
    """What decides features: of an encoder the keys that extraction compares, of a PCA its hash."""
    if not isinstance(value, dict):
        return value
    if "weights_sha256" in value:
        return {key: value.get(key) for key in COMPARED}
    return {"sha256": value["sha256"]} if "sha256" in value else value


def _short(value: Any) -> str:
    if not isinstance(value, dict):
        return repr(value)
    return ", ".join(f"{key} {part!r}" for key, part in _comparable(value).items()) or "nothing"
