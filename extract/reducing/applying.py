"""Applying a PCA to a whole store, without decoding again."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.alone import alone_in
from ...core.engine import Engine
from ...core.errors import ReelkinError, UsageError
from ...core.files import publishing, remove_partials, sha256_file
from ...core.progress import Progress
from ..describe import COMPARED
from ..pca import PCA
from ..running.pipeline import PCA_FILE, SHARE_SECONDS
from ..running.records import Record, read_record, record_path, refuse_other_store, refuse_others, settings_in
from ..storage.blocks import map_block
from ..storage.removed import read_removed, removed_row
from ..store import FeatureStore, publish_store, write_block

FRAMES_AT_ONCE = 8192
"""Frames that a PCA is applied to together."""


def apply_to_store(
    store: FeatureStore,
    pca_path: Path,
    output: Path,
    engine: Engine,
    *,
    rebuild: bool = False,
    limit: int | None = None,
) -> FeatureStore:
    """Write a store whose features are ``pca.apply`` of another store's; the ranks share the blocks.

    The unit of work and of resume is a block: one that is there, and was made from the same features, is kept. Videos
    that were taken out of ``output`` stay out. The features differ from those extracted with the PCA at once by the
    float16 rounding of the first store.

    Raises:
        UsageError: the store went through a PCA already, the PCA is for other features, or ``output`` holds others.
        ReelkinError: the disk is full, or another command is at work in ``output``.
    """
    job = Reduction.plan(store, pca_path, output, limit)
    with alone_in(output) if engine.is_main else nullcontext():
        todo = engine.on_main(lambda: job.begin(rebuild), "blocks to reduce")
        sizes = {block.name: block.bytes for block in store.blocks}
        own = sorted(todo, key=lambda name: (-sizes[name], name))[engine.rank :: engine.size]
        count = sum(len(job.members[name]) for name in own)
        with (
            engine.extend_deadline(SHARE_SECONDS),
            Progress(count, "videos", "applying the PCA", engine.is_main, sum(sizes[name] for name in own)) as progress,
        ):
            for name in own:
                job.reduce(name, engine)
                progress.advance(len(job.members[name]), bytes=sizes[name])
        with engine.extend_deadline(SHARE_SECONDS):
            engine.on_main(job.publish, "publishing")
    return FeatureStore.open(output)


@dataclass(frozen=True, eq=False)
class Reduction:
    """What applying a PCA to a store comes to. Made by `plan`, which changes nothing.

    Attributes:
        store, pca, pca_path, output: as given to `apply_to_store`.
        limit: only so many videos.
        settings: of the new store.
        members: the videos that each block of the store gives to the block of the same name, with their numbers there.
        removed: ids that were taken out of ``output``.
    """

    store: FeatureStore
    pca: PCA
    pca_path: Path
    output: Path
    limit: int | None
    settings: dict[str, Any]
    members: dict[str, dict[str, int]]
    removed: frozenset[str]

    @classmethod
    def plan(cls, store: FeatureStore, pca_path: Path, output: Path, limit: int | None = None) -> Reduction:
        """See what there is to do. Raises UsageError when the PCA cannot be applied to the store."""
        if store.info.get("pca"):
            raise UsageError(f"{store.path} was made with a PCA already")
        if output.resolve() == store.path.resolve():
            raise UsageError(f"output: {output} is the store that the PCA is applied to; name another folder")
        pca = PCA.load(pca_path)
        encoder, fitted = store.info.get("encoder") or {}, pca.info.get("encoder") or {}
        for key in COMPARED:
            if key in fitted and key in encoder and fitted[key] != encoder[key]:
                raise UsageError(
                    f"{pca_path} was fitted on other features: {key} {fitted[key]!r}, here {encoder[key]!r}; fit "
                    f"one on {store.path} with extract/fit_pca.py"
                )
        if pca.input_dim != store.dim:
            raise UsageError(f"{pca_path} takes {pca.input_dim} dimensions, {store.path} has {store.dim}")
        removed = read_removed(output)
        limited = set(store.video_ids[:limit]) - removed
        members = {
            name: {video_id: number for video_id, number in videos.items() if video_id in limited}
            for name, videos in store.members().items()
        }
        settings = {**settings_in(store.info), "pca_sha256": sha256_file(pca_path)}
        return cls(store, pca, pca_path, output, limit, settings, members, removed)

    @property
    def bytes(self) -> int:
        """Of the new store's blocks."""
        frames = sum(self.store.num_frames(video_id) for members in self.members.values() for video_id in members)
        return frames * (2 * self.pca.dim + 8)

    def unfinished(self, rebuild: bool) -> list[str]:
        """Names of the blocks to make. Raises UsageError when ``output`` holds other features, unless ``rebuild``."""
        if not rebuild:
            refuse_other_store(self.output, self.settings)
        todo = []
        for name in self.members:
            record = read_record(self.output, name)
            if record is not None and not rebuild:
                refuse_others(self.output, record.settings, self.settings)
            if record is None or record.settings != self.settings or record.made_from != self._made_from(name):
                todo.append(name)
        return todo

    def begin(self, rebuild: bool) -> list[str]:
        """`unfinished`, and make ``output`` a store in the making when there are any."""
        todo = self.unfinished(rebuild)
        remove_partials(self.output)
        if todo:
            (self.output / "store.json").unlink(missing_ok=True)
        return todo

    def _made_from(self, name: str) -> dict[str, str]:
        digest = next(block.sha256 for block in self.store.blocks if block.name == name)
        return dict.fromkeys(self.members[name], digest)

    def reduce(self, name: str, engine: Engine) -> None:
        """Make a block and its record."""
        pca = self.pca.to(engine.device)
        features, times = map_block(self.store.path / name, self.store.dim).videos(self.members[name].values())
        reduced: list[np.ndarray] = []
        first = 0
        while first < len(features):  # videos together: one large product is several times faster than many thin ones
            last, held = first, 0
            while last < len(features) and (last == first or held + len(features[last]) <= FRAMES_AT_ONCE):
                held += len(features[last])
                last += 1
            rows = torch.from_numpy(np.concatenate(features[first:last])).to(engine.device)
            stored = pca.apply(rows).half().cpu().numpy()
            reduced += np.split(stored, np.cumsum([len(each) for each in features[first : last - 1]]))
            first = last
        # A record must never stand beside a block that it does not speak of.
        record_path(self.output, name).unlink(missing_ok=True)
        block = write_block(self.output / name, reduced, times, self.pca.dim)
        rows_of = [replace(self.store.row(video_id), row=number) for number, video_id in enumerate(self.members[name])]
        Record(self.settings, self._made_from(name), block, rows_of).publish(self.output)

    def publish(self) -> None:
        """Publish manifest and store.json over the blocks, and remove those of an earlier, other store."""
        blocks, row_of = [], {}
        for name in self.members:
            record = read_record(self.output, name)
            if record is None or record.made_from != self._made_from(name):
                raise ReelkinError(f"{self.output / name} is not there; is {self.output} shared by all ranks?")
            blocks.append(record.block)
            row_of.update({row.video_id: row for row in record.rows})
        with publishing(self.output / PCA_FILE) as temporary:
            shutil.copyfile(self.pca_path, temporary)
        rows = [removed_row(row.video_id) if row.video_id in self.removed else row for row in self.store.rejects]
        for video_id in self.store.video_ids[: self.limit]:
            rows.append(removed_row(video_id) if video_id in self.removed else row_of[video_id])
        made = ("format", "version", "dim", "blocks", "tables", "limit")
        info = {key: value for key, value in self.store.info.items() if key not in made}
        info["pca"] = {
            "file": PCA_FILE,
            "sha256": self.settings["pca_sha256"],
            "dim": self.pca.dim,
            **self.pca.info,
        }
        publish_store(self.output, self.pca.dim, info, blocks, rows)
        for path in self.output.glob("features-*.safetensors"):
            if path.name not in self.members:
                record_path(self.output, path.name).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
