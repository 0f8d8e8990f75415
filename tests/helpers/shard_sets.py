"""Sets of shards with made-up bytes for videos, written so that a test can write them again with a lie in them."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from reelkin.core.files import publish_json, publish_table, sha256_file
from reelkin.shards.archive import ArchiveError, structure_sha256
from reelkin.shards.index import FORMAT, INDEX_NAME, TABLES, VERSION, sealed
from reelkin.shards.manifest import OK, REJECTED, ClipRow, VideoRow
from reelkin.shards.writer import writing_shard

NUM_SHARDS, CLIPS_A_SHARD = 3, 4


def write_index(folder: Path, shards: list[dict[str, Any]], **more: object) -> None:
    """Write shards.json over the tables that lie in ``folder``."""
    tables = {name: sha256_file(folder / name) for name in TABLES}
    info = {"format": FORMAT, "version": VERSION, "shards": shards, "tables": tables, "config": {}, **more}
    publish_json(folder / INDEX_NAME, sealed(info))


def write_tables(folder: Path, videos: list[VideoRow], clips: list[ClipRow]) -> None:
    for name, rows, kind in (("manifest.parquet", videos, VideoRow), ("clips.parquet", clips, ClipRow)):
        publish_table(folder / name, pa.Table.from_pylist([asdict(row) for row in rows], schema=kind.SCHEMA))


class ShardSetMaker:
    """A set of shards with its rows at hand, so that a test can write it again with a lie in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos: list[VideoRow] = []
        self.clips: list[ClipRow] = []
        self.shards: list[dict[str, Any]] = []
        rng = random.Random(0)
        for shard in range(NUM_SHARDS):
            self._write_shard(shard, rng)
        self.videos.append(VideoRow("unusable", REJECTED, "truncated", "cut in the middle", "unusable.mp4", bytes=7))
        self.write()

    def _write_shard(self, shard: int, rng: random.Random) -> None:
        name = f"clips-{shard:06d}.tar"
        with writing_shard(self.folder / name) as writer:
            for number in range(CLIPS_A_SHARD):
                data = rng.randbytes(rng.randint(1, 3000))
                video_id, key = f"video {shard}.{number // 2}", f"{shard:06d}_{number:06d}"
                start = 2.5 * (number % 2)
                facts = {"video_id": video_id, "start_seconds": start, "duration_seconds": 2.5, "num_frames": 25}
                member = writer.add(key, "mp4", data, facts)
                row = (video_id, name, key, "mp4", start, 2.5, 25, member.bytes, member.sha256, member.offset)
                self.clips.append(ClipRow(*row))
            self.videos += [VideoRow(f"video {shard}.{n}", OK, num_clips=2, num_frames=50) for n in range(2)]
        self.shards.append(asdict(writer.entry(name)))

    def write(self) -> None:
        write_tables(self.folder, self.videos, self.clips)
        write_index(self.folder, self.shards)

    def trust(self, name: str) -> None:
        """Make shards.json agree with a shard that was exchanged."""
        for shard in self.shards:
            if shard["name"] == name:
                shard["bytes"] = (self.folder / name).stat().st_size
                try:
                    shard["structure_sha256"] = structure_sha256(self.folder / name)
                except ArchiveError:
                    shard["structure_sha256"] = "0" * 64  # no shard has one; what is wrong with it is found before
        self.write()
