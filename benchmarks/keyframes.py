#!/usr/bin/env python3
"""Sampling by keyframes against sampling by time and taking every picture: speed, in turns, in one run.

    python benchmarks/keyframes.py --turns 3

Made clips of a minute with a keyframe every 5 and every 10 seconds. CPU time from the file to scaled RGB pictures in
memory, one thread, the plan of each clip included and on its own. "Decoding everything" decodes every picture and
converts those at 1 fps. The pictures of keyframes must be the same, bit for bit, as those of a full decode, else the
benchmark fails.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from reelkin.shards.video.container import open_container
from reelkin.shards.video.decode import iter_frames
from reelkin.shards.video.pictures import all_pictures
from reelkin.shards.video.probe import DEFAULT_LIMITS, make_plan
from reelkin.shards.video.sampling import Sampling, choose

SHORT_SIDE = 256
RATE = 25
CODECS = {
    "h264.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-sc_threshold", "0", "-pix_fmt", "yuv420p"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M"),
}


def make(path: Path, codec: tuple[str, ...], gap: int, seconds: int, size: str) -> Path:
    """A clip with a keyframe every ``gap`` seconds."""
    source = f"testsrc2=size={size}:rate={RATE}:duration={seconds},noise=alls=8:allf=t:all_seed=1"
    line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-f", "lavfi", "-i", source, *codec]
    subprocess.run([*line, "-g", str(gap * RATE), "-keyint_min", str(gap * RATE), str(path)], check=True)
    return path


def sampled(path: Path, sampling: Sampling) -> list[np.ndarray]:
    """The pictures, as the extraction takes them."""
    plan = make_plan(path)
    samples = choose(plan, sampling)
    return [frame.picture for frame in iter_frames(path, plan=plan, samples=samples, short_side=SHORT_SIDE)]


def everything(path: Path) -> list[np.ndarray]:
    """The pictures at 1 fps, all others decoded as well."""
    plan = make_plan(path)
    wanted = set(choose(plan, Sampling()).indices.tolist())
    kept = []
    with open_container(path) as container:
        for index, frame in all_pictures(container, plan, 1, DEFAULT_LIMITS):
            if index in wanted:
                kept.append(frame.reformat(width=SHORT_SIDE, height=SHORT_SIDE, format="gbrp").to_ndarray())
    return kept


def same_as_in_full(path: Path) -> bool:
    """Whether the keyframes' pictures are those among all."""
    plan = make_plan(path)
    indices = choose(plan, Sampling("keyframes")).indices
    found = sampled(path, Sampling("keyframes"))
    whole = iter_frames(path, plan=plan, samples=choose(plan, Sampling("all")), short_side=SHORT_SIDE)
    wanted = [frame.picture for index, frame in enumerate(whole) if index in set(indices.tolist())]
    return len(found) == len(wanted) and all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="repetitions of each, in turns; the best counts")
    parser.add_argument("--seconds", type=int, default=60, help="length of the clips")
    parser.add_argument("--size", default="854x480", help="of the pictures")
    options = parser.parse_args()
    ways: dict[str, Callable[[Path], object]] = {
        "plan alone": make_plan,
        "keyframes": lambda path: sampled(path, Sampling("keyframes")),
        "times, 1 fps": lambda path: sampled(path, Sampling()),
        "decoding everything, 1 fps": everything,
        "all": lambda path: sampled(path, Sampling("all")),
    }
    print("| clip | " + " | ".join(f"{name}, s" for name in ways) + " | keyframes faster than 1 fps, than everything |")
    print("|---|" + "---|" * (len(ways) + 1))
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in CODECS.items():
            for gap in (5, 10):
                clip = make(Path(folder) / f"{gap}s_{name}", codec, gap, options.seconds, options.size)
                if not same_as_in_full(clip):
                    raise SystemExit(f"{clip.name}: the keyframes are not the pictures of a full decode")
                best = dict.fromkeys(ways, float("inf"))
                for _ in range(options.turns):
                    for way, run in ways.items():
                        start = time.process_time()
                        run(clip)
                        best[way] = min(best[way], time.process_time() - start)
                faster = [best[way] / best["keyframes"] for way in ("times, 1 fps", "decoding everything, 1 fps")]
                cells = [f"{seconds:.3f}" for seconds in best.values()]
                print(f"| {clip.name} | {' | '.join(cells)} | {faster[0]:.1f}, {faster[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
