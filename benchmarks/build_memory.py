#!/usr/bin/env python3
"""Memory of a build over ten thousand videos: of the building process and of its children.

    python benchmarks/build_memory.py --count 10000

Memory is sampled from outside while the build runs (resident set, one number for the builder and one for all children
together), with the number of videos done. What counts is the growth from the second fifth of the videos, when
everything is loaded, to the last fifth: largest against largest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reelkin.shards.sources.files import VIDEO_EXTENSIONS
from reelkin.tests.helpers import videos as made

SCRIPT = Path(__file__).resolve().parents[1] / "shards" / "build.py"


def resident_kilobytes(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started, over all its threads."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text().split()]
        except OSError:
            continue
    return found


def sources(folder: Path, videos: Path | None, largest: int) -> list[Path]:
    """Small videos of a folder, or made ones."""
    there = sorted(p for p in videos.iterdir() if p.suffix.lower() in VIDEO_EXTENSIONS) if videos else []
    small = [path for path in there if path.stat().st_size <= largest]
    return small or [made.make_video(folder / f"made{n}.mp4", seconds=1, seed=n, pattern="noise") for n in range(10)]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared" / "videos"
    parser.add_argument("--videos", type=Path, default=shared if shared.is_dir() else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--shard-videos", type=int, default=250)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = sources(folder, options.videos, 600_000)
        lines = [f"v{n:06d},{originals[n % len(originals)]}" for n in range(options.count)]
        (folder / "list.csv").write_text("\n".join(["video_id,path", *lines]) + "\n")
        line = [sys.executable, str(SCRIPT), "--videos", str(folder / "list.csv"), "--output", str(folder / "out")]
        started = time.perf_counter()
        process = subprocess.Popen([*line, "--shard-videos", str(options.shard_videos)], stderr=subprocess.DEVNULL)
        samples: list[tuple[int, int, int]] = []
        while process.poll() is None:
            done = len(list((folder / "out" / "records").glob("*.json"))) * options.shard_videos
            inside = sum(resident_kilobytes(child) for child in children(process.pid))
            samples.append((done, resident_kilobytes(process.pid), inside))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        if process.returncode:
            sys.exit(f"the build ended with {process.returncode}")
        print(f"{options.count} videos from {len(originals)} files in {seconds:.0f} s")
        fifth = options.count / 5
        # At the very end the tables are put together; that is judged by its own figure.
        for what, column in (("builder", 1), ("children", 2)):
            early = max(sample[column] for sample in samples if fifth <= sample[0] < 2 * fifth)
            late = max(sample[column] for sample in samples if 4 * fifth <= sample[0] < options.count)
            growth = f"{100 * (late / early - 1):+.2f} %"
            print(f"{what}: {early / 1e3:.1f} MB in the second fifth, {late / 1e3:.1f} MB in the last: {growth}")
        print(f"peak of the builder, tables included: {max(sample[1] for sample in samples) / 1e3:.1f} MB")


if __name__ == "__main__":
    main()
