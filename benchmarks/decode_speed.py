#!/usr/bin/env python3
"""Decoding and scaling against bare ffmpeg, in turns, in one run.

    python benchmarks/decode_speed.py --turns 5

Reelkin reads a clip's plan and yields scaled RGB pictures in a process that has been started before. ffmpeg decodes the
same clip with as many decoder threads, scales it with the same filter and the same exact rounding, and writes the RGB
pictures to /dev/null (at one picture a second with its ``fps`` filter); its start, printed once, is taken off. With two
at once, two processes with one thread each do a clip each. CPU time is the steadier figure on a busy machine. The third
ratio is Reelkin's without the shorter ways (pictures that no sample needs are decoded all the same). 1.0 is ffmpeg's
speed; more is faster.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

from reelkin.shards.video import decode
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling, choose

SHORT_SIDE = 256
FILTER = f"scale=-2:{SHORT_SIDE}:flags=area+accurate_rnd+full_chroma_int+bitexact"
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "150", "-pix_fmt", "yuv420p")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "150", "-b:v", "1M")


@dataclass(frozen=True)
class Time:
    """Seconds on the clock and seconds of all cores."""

    wall: float
    cpu: float

    def best(self, other: Time) -> Time:
        """The lower of both, each for itself."""
        return Time(min(self.wall, other.wall), min(self.cpu, other.cpu))


def make(folder: Path) -> list[Path]:
    """The clips: H.264 at 480p and 1080p, VP9 at 480p, a keyframe every five seconds."""
    recipes = (("h264_480p.mp4", "854x480", 20, X264), ("h264_1080p.mp4", "1920x1080", 8, X264))
    clips = []
    for name, size, seconds, options in (*recipes, ("vp9_480p.webm", "854x480", 20, VP9)):
        source = f"testsrc2=size={size}:rate=30:duration={seconds},noise=alls=8:allf=t:all_seed=1"
        line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-f", "lavfi", "-i", source, *options]
        clips.append(folder / name)
        subprocess.run([*line, str(clips[-1])], check=True)
    return clips


def reelkin(path: str, mode: str, threads: int, whole: bool) -> float:
    """One clip in a process that is already there; seconds of CPU."""
    before = time.process_time()
    kept = decode.shorter_way
    if whole:
        decode.shorter_way = lambda *_, **__: None
    try:
        plan = make_plan(Path(path))
        samples = choose(plan, Sampling("all" if mode == "all" else "times", 1.0))
        for _ in decode.iter_frames(Path(path), plan=plan, samples=samples, short_side=SHORT_SIDE, threads=threads):
            pass
    finally:
        decode.shorter_way = kept
    return time.process_time() - before


def ffmpeg(program: str, arguments: list[str], at_once: int) -> Time:
    """``at_once`` processes of ffmpeg."""
    line = [program, "-nostdin", "-v", "error", "-y", *arguments]
    spent, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    processes = [subprocess.Popen(line) for _ in range(at_once)]
    for process in processes:
        if process.wait():
            raise SystemExit(f"failed: {' '.join(line)}")
    wall, now = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Time(wall, now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime)


def decoding(clip: Path, mode: str, threads: int) -> list[str]:
    """ffmpeg's arguments for what `reelkin` does."""
    filters = FILTER if mode == "all" else f"fps=1,{FILTER}"
    line = ["-threads", str(threads), "-i", str(clip), "-an", "-vf", filters, "-filter_threads", "1"]
    return [*line, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null"]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="repetitions of each, in turns; the best counts")
    parser.add_argument("--videos", type=Path, nargs="*", help="clips instead of made ones")
    options = parser.parse_args()
    system = shutil.which("ffmpeg")
    programs = {"imageio-ffmpeg": get_ffmpeg_exe(), **({"system's ffmpeg": system} if system else {})}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        clips = options.videos or make(Path(folder))
        list(pool.map(reelkin, [str(clips[0])] * 4, ["times"] * 4, [1] * 4, [False] * 4))  # both have imported all
        starts = {}
        for name, program in programs.items():
            idle = ["-f", "lavfi", "-i", "color=size=16x16:duration=0.04", "-f", "null", "-"]
            starts[name] = min((ffmpeg(program, idle, 1) for _ in range(5)), key=lambda t: t.cpu)
            print(f"{name}: {starts[name].wall * 1e3:.0f} ms to start ({programs[name]})")

        def ours(clip: Path, mode: str, threads: int, at_once: int, whole: bool) -> Time:
            start = time.perf_counter()
            jobs = [pool.submit(reelkin, str(clip), mode, threads, whole) for _ in range(at_once)]
            cpu = sum(job.result() for job in jobs)
            return Time(time.perf_counter() - start, cpu)

        print(
            f"best of {options.turns} turns; {os.cpu_count()} cores; ratios of: clock, CPU, CPU with nothing left out\n"
        )
        print(
            "| clip | pictures | threads x at once | "
            + " | ".join(f"{name}: clock | CPU | all" for name in programs)
            + " |"
        )
        print("|---|---|---|" + "---|---|---|" * len(programs))
        for clip in clips:
            for mode in ("1 fps", "all"):
                for threads, at_once in ((1, 1), (2, 1), (1, 2)):
                    runs: dict[str, Callable[[], Time]] = {
                        "reelkin": partial(ours, clip, mode, threads, at_once, False),
                        "whole": partial(ours, clip, mode, threads, at_once, True),
                    }
                    for name, program in programs.items():
                        runs[name] = partial(ffmpeg, program, decoding(clip, mode, threads), at_once)
                    best: dict[str, Time] = {}
                    for _ in range(options.turns):
                        for name, run in runs.items():
                            now = run()
                            best[name] = best.get(name, now).best(now)
                    cells = []
                    for name in programs:
                        wall = best[name].wall - starts[name].wall
                        cpu = best[name].cpu - at_once * starts[name].cpu
                        ratio, whole = (cpu / best[own].cpu for own in ("reelkin", "whole"))
                        cells.append(f"{wall / best['reelkin'].wall:.2f} | {ratio:.2f} | {whole:.2f}")
                    print(f"| {clip.name} | {mode} | {threads} x {at_once} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
