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


Sample = tuple[int, int, int]
"""Videos done, kilobytes of the command, kilobytes of its children together."""


def watched(line: list[str], folder: Path, pattern: str, videos_each: int) -> tuple[list[Sample], float]:
    """Run a command; samples and seconds. A file in ``folder`` stands for so many videos that are done."""
    started = time.perf_counter()
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    samples: list[Sample] = []
    while process.poll() is None:
        done = len(list(folder.glob(pattern))) * videos_each
        inside = sum(resident_kilobytes(child) for child in children(process.pid))
        samples.append((done, resident_kilobytes(process.pid), inside))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"the command ended with {process.returncode}")
    return samples, time.perf_counter() - started


def print_growth(what: str, samples: list[Sample], count: int) -> None:
    """Largest in the last fifth against largest in the second; at the very end the tables are put together, which is
    judged by its own figure."""
    fifth = count / 5
    for name, column in ((what, 1), ("children", 2)):
        early = max(sample[column] for sample in samples if fifth <= sample[0] < 2 * fifth)
        late = max(sample[column] for sample in samples if 4 * fifth <= sample[0] < count)
        growth = f"{100 * (late / early - 1):+.2f} %"
        print(f"{name}: {early / 1e3:.1f} MB in the second fifth, {late / 1e3:.1f} MB in the last: {growth}")
    print(f"peak of the {what}, tables included: {max(sample[1] for sample in samples) / 1e3:.1f} MB")


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
        line += ["--shard-videos", str(options.shard_videos)]
        samples, seconds = watched(line, folder / "out" / "records", "*.json", options.shard_videos)
        print(f"{options.count} videos from {len(originals)} files in {seconds:.0f} s")
        print_growth("builder", samples, options.count)


if __name__ == "__main__":
    main()
