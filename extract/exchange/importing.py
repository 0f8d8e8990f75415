"""Features of others into a feature store, block by block: stopped anywhere, the same import goes on."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ...core.errors import DataError, Reason, ReelkinError, UsageError
from ...core.files import publishing, remove_partials
from ...core.progress import Progress
from ...shards.sources.inputs import printable
from ..running.records import Record, read_record, record_path, refuse_other_store, refuse_others, settings_of
from ..storage.removed import read_removed, removed_row
from ..storage.rows import to_table
from ..store import Block, FeatureStore, StoreRow, publish_store, to_float16, write_block
from .hdf5 import Hdf5Reader
from .items import Item, Reader, bad_id
from .npy import NpyReader
from .npz import NpzReader

log = logging.getLogger("reelkin.extract")

BLOCK_BYTES, BLOCK_VIDEOS = 256 << 20, 10_000
SAMPLE = 100
"""The dimension is that of most of so many first videos."""

Regions = Literal["refuse", "flatten", "sum"]


def open_source(path: Path, ids: Literal["path", "name"] = "path") -> Reader:
    """The reader of a file or folder, by its name: .h5, .hdf5, .npz, .npy, or a folder of .npy.

    Raises:
        UsageError: there is no such file, or its layout is not known.
        ReelkinError: it cannot be read.
    """
    if not path.exists():
        raise UsageError(f"from: there is no {path}")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".npy":
        return NpyReader(path, ids)
    if suffix in (".h5", ".hdf5", ".hdf"):
        return Hdf5Reader(path)
    if suffix == ".npz":
        return NpzReader(path)
    raise UsageError(f"from: {path} has an unknown ending; .h5, .hdf5, .npz, .npy and folders of .npy can be read")


@dataclass(frozen=True)
class Origin:
    """What an imported store says about how its features were made.

    Attributes:
        encoder, sampling, decoder: as in store.json.
        pca: as in store.json, or None.
        pca_file: the PCA's file, to be copied.
        dim: what the features must have; None: any, and it is recorded in the encoder.
    """

    encoder: Mapping[str, Any]
    sampling: Mapping[str, Any]
    decoder: str = "imported"
    pca: Mapping[str, Any] | None = None
    pca_file: Path | None = None
    dim: int | None = None

    @classmethod
    def like(cls, store: FeatureStore) -> Origin:
        """Made as another store's features were, on the word of whoever says so."""
        info, pca = store.info, store.info.get("pca")
        file = store.path / pca["file"] if pca else None
        sampling, decoder = info.get("sampling") or {}, info.get("decoder") or ""
        return cls(info.get("encoder") or {}, sampling, decoder, pca, file, store.dim)


@dataclass(eq=False)
class _Block:
    """Videos that are gathered into one block."""

    path: Path
    dim: int
    rows: list[StoreRow] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def full(self) -> bool:
        return self.num_bytes >= BLOCK_BYTES or len(self.rows) >= BLOCK_VIDEOS

    def add(self, video_id: str, features: np.ndarray, times: np.ndarray) -> None:
        """Take a video's features float16 [T, D] and times float64 [T], seconds."""
        place, name = len(self.features), self.path.name
        self.rows.append(StoreRow(video_id, "ok", "", "", name, place, len(features), times[-1]))
        self.features.append(features)
        self.times.append(times)
        self.num_bytes += features.nbytes

    def publish(self, output: Path, settings: Mapping[str, Any], made_from: dict[str, str]) -> None:
        """Write the features, then the record that says what they were made from."""
        record_path(output, self.path.name).unlink(missing_ok=True)
        block = write_block(self.path, self.features, self.times, self.dim)
        Record(settings, made_from, block, self.rows).publish(output)


@dataclass(eq=False)
class Import:
    """One import.

    Attributes:
        reader: what is read.
        output: the store's folder.
        origin: what it says about its features; the dimension (and the number of regions) is added to its encoder.
        fps: frames are k / fps, whatever the source says; None: the source's times, else its fps, else 1.
        regions: what becomes of [T, R, D]: refused, one vector of R x D numbers a frame, or (as TCA does) the sum of
            the regions, of norm 1.
        limit: only so many videos.
        rebuild: replace features with other settings instead of refusing.
    """

    reader: Reader
    output: Path
    origin: Origin
    fps: float | None = None
    regions: Regions = "refuse"
    limit: int | None = None
    rebuild: bool = False
    _seen: set[str] = field(default_factory=set)

    def shape(self) -> tuple[int, ...]:
        """(D,) or (R, D) of most of the first videos.

        Raises:
            UsageError: none of them has features, or they have regions and nobody said what becomes of them.
        """
        shapes: Counter[tuple[int, ...]] = Counter()
        problem = "there is none"
        for item in islice(self.reader.read(0), SAMPLE):
            if item.features is None:
                problem = f"{printable(item.video_id)}: {item.problem}"
            else:
                shapes[_frames(item.features).shape[1:]] += 1
        if not shapes:
            raise UsageError(f"from: none of the first {SAMPLE} videos has features ({problem})")
        shape = shapes.most_common(1)[0][0]
        if len(shape) == 2 and self.regions == "refuse":
            raise UsageError(
                f"regions: the videos have {shape[0]} regions a frame, of {shape[1]} numbers each; a store has one "
                f"vector a frame. Pass --regions flatten (a vector of {shape[0] * shape[1]}: nothing is lost) or "
                "--regions sum (their sum, of norm 1, as TCA does)"
            )
        return shape

    def run(self) -> FeatureStore:
        """Do it, or what is left of it.

        Raises:
            UsageError: ``output`` holds other features.
            ReelkinError: the source ends early or changes, the disk is full; what was written is kept.
        """
        shape = self.shape()
        dim = self._dim(shape)
        if self.origin.dim not in (None, dim):
            raise UsageError(f"like: its features have {self.origin.dim} dimensions, these {dim}")
        settings = self._settings(shape)
        begun = self._begun(settings)
        source = f"{self.reader.fingerprint} {self.fps} {self.limit}"
        removed = read_removed(self.output)
        number, first, done = 0, 0, False
        self._seen.clear()
        with Progress(len(self.reader), self.reader.unit, "importing") as progress:
            while number < begun and (record := self._kept(number, source, first)) is not None:
                self._seen |= {row.video_id for row in record.rows if row.reason != Reason.DUPLICATE_ID}
                first, done = int(record.made_from.get("end", 0)), record.made_from.get("last") == "yes"
                number += 1
            progress.skip(first if self.reader.unit == "videos" else 0)
            if not done:
                (self.output / "store.json").unlink(missing_ok=True)
            items = islice(self.reader.read(first), None if self.limit is None else max(0, self.limit - first))
            waiting = None if done else next(items, None)
            while not done:
                block = _Block(self._block(number), dim)
                waiting = self._fill(block, waiting, items, shape, removed, progress)
                done = waiting is None
                end = first + len(block.rows)
                made_from = {"source": source, "first": str(first), "end": str(end), "last": "yes" if done else "no"}
                block.publish(self.output, settings, made_from)
                number, first = number + 1, end
        self._publish(number, dim, shape, settings)
        return FeatureStore.open(self.output)

    def _fill(
        self,
        block: _Block,
        item: Item | None,
        others: Iterator[Item],
        shape: tuple[int, ...],
        removed: frozenset[str],
        progress: Progress,
    ) -> Item | None:
        """Take a video and the others after it into a block; the first one that it has no room for, or None."""
        while item is not None and not block.full:
            reason = ""
            try:
                block.add(item.video_id, *self._checked(item, shape, removed))
            except DataError as error:
                row = StoreRow.rejected(printable(item.video_id), error.reason, str(error))
                block.rows.append(removed_row(item.video_id) if error.reason == Reason.REMOVED else row)
                reason = error.reason.value
            counted = 1 if self.reader.unit == "videos" or item.features is None else len(item.features)
            progress.advance(counted, reason=reason)
            item = next(others, None)
        return item

    def _dim(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) if self.regions == "flatten" else shape[-1]

    def _encoder(self, shape: tuple[int, ...]) -> dict[str, Any]:
        encoder = dict(self.origin.encoder)
        if self.origin.dim is not None:
            return encoder
        regions = {"regions": shape[0], "regions_kept": self.regions} if len(shape) == 2 else {}
        return {**encoder, "dim": self._dim(shape), **regions}

    def _sampling(self) -> dict[str, Any]:
        sampling = dict(self.origin.sampling)
        return sampling or {"mode": "imported", "fps": self._rate()}

    def _rate(self) -> float | None:
        """Frames per second, or None where the source says when each frame was."""
        return self.fps or (None if self.reader.timed else self.reader.fps or 1.0)

    def _settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        sha256 = (self.origin.pca or {}).get("sha256")
        return settings_of(self._encoder(shape), sha256, self._sampling(), self.origin.decoder)

    def _block(self, number: int) -> Path:
        return self.output / f"features-{number:06d}.safetensors"

    def _begun(self, settings: Mapping[str, Any]) -> int:
        """Number of blocks that are there. Raises UsageError when they have other settings, unless ``rebuild``."""
        if self.rebuild:
            return 0
        refuse_other_store(self.output, settings)
        number = 0
        while record_path(self.output, self._block(number).name).exists():
            record = read_record(self.output, self._block(number).name)
            if record is not None:
                refuse_others(self.output, record.settings, settings)
            number += 1
        if not number and (self.output / "store.json").exists():
            raise UsageError(f"{self.output} holds features that were not imported; choose another --output")
        remove_partials(self.output)
        return number

    def _kept(self, number: int, source: str, first: int) -> Record | None:
        record = read_record(self.output, self._block(number).name)
        fits = record is not None and (record.made_from.get("source"), record.made_from.get("first")) == (
            source,
            str(first),
        )
        return record if fits else None

    def _checked(self, item: Item, shape: tuple[int, ...], removed: frozenset[str]) -> tuple[np.ndarray, np.ndarray]:
        """A video's features float16 [T, D] and times float64 [T], or a DataError."""
        problem = bad_id(item.video_id)
        if problem:
            raise DataError(Reason.BAD_ID, problem)
        if item.video_id in self._seen:
            raise DataError(Reason.DUPLICATE_ID, "another video of the source bears this id, or its frames lie apart")
        self._seen.add(item.video_id)
        if item.video_id in removed:
            raise DataError(Reason.REMOVED, "taken out on request")
        if item.problem is not None:
            raise item.problem
        assert item.features is not None
        frames = _frames(item.features)
        if frames.shape[1:] != shape:
            raise DataError(
                Reason.BAD_FRAMES, f"frames of shape {list(frames.shape[1:])}; most others have {list(shape)}"
            )
        if frames.ndim == 3 and self.regions == "flatten":
            frames = frames.reshape(len(frames), -1)
        elif frames.ndim == 3:
            summed = frames.sum(axis=1, dtype=np.float32)
            frames = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
        stored = to_float16(frames)
        times = self._times(item, len(stored))
        if (np.diff(times) < 0).any():
            order = np.argsort(times, kind="stable")
            stored, times = stored[order], times[order]
        return stored, times

    def _times(self, item: Item, count: int) -> np.ndarray:
        if self.fps is not None or item.times is None:
            return np.arange(count) / (self._rate() or 1.0)
        times = np.asarray(item.times)
        times = (times[:, 0] if times.ndim == 2 else times).astype(np.float64)
        if times.shape != (count,) or not np.isfinite(times).all():
            raise DataError(Reason.BAD_FRAMES, f"times of shape {list(times.shape)} for {count} frames, or not finite")
        return times

    def _publish(self, number: int, dim: int, shape: tuple[int, ...], settings: Mapping[str, Any]) -> None:
        blocks: list[Block] = []
        tables: list[pa.Table] = []
        for each in range(number):
            record = read_record(self.output, self._block(each).name)
            if record is None:
                raise ReelkinError(f"{self._block(each)} has gone while it was imported; run the same command again")
            blocks.append(record.block)
            tables.append(to_table(record.rows))
        if not sum(block.num_videos for block in blocks):
            log.warning("no video of the source could be used; the manifest says why")
        pca = None
        if self.origin.pca and self.origin.pca_file:
            pca = {**self.origin.pca}
            with publishing(self.output / str(pca["file"])) as temporary:
                shutil.copyfile(self.origin.pca_file, temporary)
        info = {
            "encoder": self._encoder(shape),
            "pca": pca,
            "sampling": settings["sampling"],
            "decoder": settings["decoder"],
            "imported": {"layout": self.reader.layout, "fingerprint": self.reader.fingerprint},
        }
        publish_store(self.output, dim, info, blocks, pa.concat_tables(tables))
        while record_path(self.output, self._block(number).name).exists():  # of a longer source, before
            record_path(self.output, self._block(number).name).unlink()
            self._block(number).unlink(missing_ok=True)
            number += 1


def _frames(features: np.ndarray) -> np.ndarray:
    """[T, D] or [T, R, D] with R > 1: a single frame that was squeezed to [D] and single regions are put right."""
    if features.ndim == 1:
        return features[None]
    return features[:, 0] if features.ndim == 3 and features.shape[1] == 1 else features
