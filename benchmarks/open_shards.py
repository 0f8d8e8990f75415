#!/usr/bin/env python3
"""Time and memory from nothing to the first sample of a set of a million videos.

    python benchmarks/open_shards.py --videos 1000000

The tables describe a million videos in a thousand shards. The first shard is real; the others are files of the right
size without content, because opening looks at their sizes and nobody reads them. Everything is measured in a process of
its own, from its start to its end, against a process that only imports what is needed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from reelkin.core.files import publish_json, publish_table, sha256_file
from reelkin.shards.index import CLIPS_NAME, INDEX_NAME, MANIFEST_NAME, read_index, sealed
from reelkin.shards.manifest import ClipRow, VideoRow
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import ShardSet
from reelkin.tests.helpers import videos

READ = """
import sys, time
began = time.perf_counter()
from reelkin.shards.reader import ShardSet
imported = time.perf_counter()
shards = ShardSet.open(sys.argv[1])
opened = time.perf_counter()
first = next(shards.read_clips(shards.shard_names[0]))
sample = time.perf_counter()
one = shards.read_clip(sys.argv[2])[0] if sys.argv[2] else None
print(imported - began, opened - imported, sample - opened, time.perf_counter() - sample)
"""
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def synthetic(folder: Path, num_videos: int, per_shard: int) -> str:
    """A set of ``num_videos`` of which ``per_shard`` exist; the id of one that does."""
    source = folder / "in"
    source.mkdir()
    video = videos.make_video(folder / "one.mp4", seconds=1)
    names = [f"{number:07d}_a1b2c3d4e5f" for number in range(per_shard)]
    for name in names:
        (source / f"{name}.mp4").symlink_to(video)
    build(BuildConfig((source,), folder / "shards", shard_videos=per_shard))
    real = ShardSet.open(folder / "shards")
    index = read_index(folder / "shards")
    video_rows, clip_rows = real.videos, real.clips_of(real.shard_names[0])
    manifest, clips = [pa.Table.from_pylist([asdict(row) for row in video_rows], VideoRow.SCHEMA)], []
    clips.append(pa.Table.from_pylist([asdict(row) for row in clip_rows], ClipRow.SCHEMA))
    shards = list(index.info["shards"])
    rng = np.random.default_rng(0)
    for number in range(1, num_videos // per_shard):
        ids = [f"{number * per_shard + n:07d}_a1b2c3d4e5f" for n in range(per_shard)]
        digests = [rng.bytes(32).hex() for _ in range(per_shard)]
        name, size = f"clips-{number:06d}.tar", 512_000_000
        for tables, rows in ((manifest, video_rows), (clips, clip_rows)):
            table = tables[0]
            changed = {"video_id": ids, "sha256": digests}
            if rows is clip_rows:
                changed["shard"] = [name] * per_shard
                changed["key"] = [f"{number:06d}_{n:06d}" for n in range(per_shard)]
            else:
                changed["path"] = [f"{text[:3]}/{text}.mp4" for text in ids]
            for column, values in changed.items():
                table = table.set_column(table.schema.get_field_index(column), table.field(column), pa.array(values))
            tables.append(table)
        with open(folder / "shards" / name, "wb") as file:
            file.truncate(size)  # takes no room
        shards.append({"name": name, "bytes": size, "sha256": rng.bytes(32).hex(), "num_clips": per_shard})
    publish_table(folder / "shards" / MANIFEST_NAME, pa.concat_tables(manifest).combine_chunks())
    publish_table(folder / "shards" / CLIPS_NAME, pa.concat_tables(clips).combine_chunks())
    tables = {name: sha256_file(folder / "shards" / name) for name in (MANIFEST_NAME, CLIPS_NAME)}
    publish_json(folder / "shards" / INDEX_NAME, sealed({**index.info, "shards": shards, "tables": tables}))
    return names[-1]


def measured(code: str, *arguments: str) -> tuple[str, float, float]:
    """First line of the output, seconds and peak gigabytes of a Python process."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + PEAK, *arguments], capture_output=True, text=True, check=True)
    *output, kilobytes = done.stdout.splitlines()
    return "\n".join(output), time.perf_counter() - started, int(kilobytes) / 1e6


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        last = synthetic(folder, options.videos, options.per_shard)
        sizes = {n: round((folder / "shards" / n).stat().st_size / 1e6, 1) for n in (MANIFEST_NAME, CLIPS_NAME)}
        print(f"{options.videos} videos, tables in MB: {json.dumps(sizes)}")
        _, seconds, gigabytes = measured("import reelkin.shards.reader")
        print(f"imports alone: {seconds:.2f} s, {gigabytes:.2f} GB")
        for what, video_id in (("first sample", ""), ("and one video by its id", last)):
            for _ in range(options.turns):
                text, seconds, gigabytes = measured(READ, str(folder / "shards"), video_id)
                parts = dict(zip(("import", "open", "first sample", "by id"), map(float, text.split()), strict=False))
                shown = ", ".join(f"{part} {value:.2f} s" for part, value in parts.items())
                print(f"{what}: {seconds:.2f} s, {gigabytes:.2f} GB ({shown})")


if __name__ == "__main__":
    main()
