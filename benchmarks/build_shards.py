#!/usr/bin/env python3
"""Building shards against copying the same files and hashing them, in turns, in one run.

    python benchmarks/build_shards.py --gigabytes 4

The baseline does the least that any packing has to do, at its best: one thread per core, each file read once in 1 MiB
blocks, hashed (SHA-256), written, and flushed to the disk. The build looks into every video, writes shards and tables,
and flushes them. Both read the same files from the same disk, warmed up once before. Copies of the videos of a folder,
joined end to end to the length of usual web video, stand for a large collection when it is small.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.tests.helpers import videos as made

BLOCK = 1 << 20


def lengthened(source: Path, target: Path, seconds: float) -> None:
    """The video of ``source`` again and again, as it is encoded, until it is ``seconds`` long."""
    line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-stream_loop", "-1", "-i", str(source), "-map", "0:v:0"]
    subprocess.run([*line, "-c", "copy", "-t", str(seconds), str(target)], check=True, timeout=120)


def corpus(folder: Path, videos: Path | None, gigabytes: float, seconds: float, kinds: list[str]) -> list[Path]:
    """Files of about so many bytes in all: lengthened videos, some of them several times under other names."""
    originals = sorted(p for p in videos.iterdir() if p.suffix.lower() in kinds) if videos else []
    if not originals:
        for number in range(6):
            path = folder / f"made{number}.mp4"
            made.make_video(path, seconds=6, size=(320, 240), pattern="noise", seed=number)
            originals.append(path)
    base = []
    for path in originals:
        target = folder / f"base_{path.stem}{path.suffix.lower()}"
        lengthened(path, target, seconds)
        base.append(target)
    size = sum(path.stat().st_size for path in base)
    files: list[Path] = []
    for turn in range(max(1, round(gigabytes * 1e9 / size))):
        for path in base:
            files.append(folder / "in" / f"{turn:03d}_{path.name}")
            files[-1].parent.mkdir(exist_ok=True)
            shutil.copyfile(path, files[-1])
    return files


def copy_and_hash(files: list[Path], target: Path, threads: int) -> None:
    """The baseline."""
    target.mkdir()

    def one(path: Path) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(BLOCK))
        with open(path, "rb", buffering=0) as source, open(target / path.name, "wb", buffering=0) as out:
            while count := source.readinto(buffer):
                out.write(buffer[:count])
                digest.update(buffer[:count])
            os.fsync(out.fileno())
        return digest.hexdigest()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, files))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared" / "videos"
    parser.add_argument("--videos", type=Path, default=shared if shared.is_dir() else None)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=120.0, help="least length of a video")
    parser.add_argument("--kinds", nargs="+", default=[".mp4", ".webm"], help="extensions of videos to take")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default the temporary folder")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        files = corpus(folder, options.videos, options.gigabytes, options.seconds, options.kinds)
        size = sum(path.stat().st_size for path in files)
        print(
            f"{len(files)} files, {size / 1e9:.2f} GB, {size / len(files) / 1e6:.1f} MB each, {cores} cores", flush=True
        )
        rates: dict[str, list[float]] = {"copy and hash": [], "build": []}
        for turn in range(options.turns + 1):
            for what, rate in rates.items():
                target = folder / "out"
                started = time.perf_counter()
                if what == "build":
                    build(BuildConfig((folder / "in",), target))
                else:
                    copy_and_hash(files, target, cores)
                seconds = time.perf_counter() - started
                shutil.rmtree(target)
                os.sync()
                if turn:  # the first turn warms up
                    rate.append(size / seconds / 1e6)
                    print(f"{what}: {rate[-1]:.0f} MB/s, {seconds:.1f} s", flush=True)
        ratios = [ours / theirs for ours, theirs in zip(rates["build"], rates["copy and hash"], strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"build / copy and hash: median {statistics.median(ratios):.2f} ({shown})")


if __name__ == "__main__":
    main()
