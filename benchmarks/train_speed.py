#!/usr/bin/env python3
"""Anchors a second of TCA's published training step, ours against the published way, in turns, in one run.

    python benchmarks/train_speed.py                     # lengths as those of VCDB's videos
    python benchmarks/train_speed.py --lengths full      # every video fills the padding: nothing to save
    python benchmarks/train_speed.py --ranks 2           # ours on 1 rank with all threads against 2 ranks, a share each

Both sides train the published model (1 layer, 1024 dimensions, 8 heads, dropout 0.2) on the same made features with
the published objective: a queue of drawn negatives, the circle loss, Adam. The published way (published_training.py)
reads an HDF5 file in worker processes, ours the feature store in threads; each side and turn is a process of its own
with all cores. A step counts from the request for its batch to the request for the next one, with the first step left
out. Memory is the peak of the side's processes together, proportional set size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from measure_command import tree_bytes
from speed_data import make_data, read_data

from reelkin.launch.run_ranks import launcher_prefix, rank_environment

PARTS = ("data", "keys", "anchors", "optimizer", "collectives", "rest")
QUEUE = 4096


class Clock:
    """Times of steps and of their parts; a part inside another one counts with the outer."""

    def __init__(self, warm_up: int, steps: int, device: torch.device) -> None:
        self.first, self.last, self.device = warm_up, warm_up + steps, device
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.requests: list[float] = []
        self._inside = False

    def now(self) -> float:
        """Seconds; on a GPU all that was asked for is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, function: Callable[..., Any], part: str | Callable[[], str]) -> Callable[..., Any]:
        """The function, whose time is added to a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            name = part if isinstance(part, str) else part()
            self._inside, began = True, self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                if self.first < len(self.requests) <= self.last:
                    self.parts[name] += self.now() - began

        return call

    def result(self) -> dict[str, Any]:
        """Seconds of each step, and of each part over all of them."""
        times = self.requests[self.first : self.last + 1]
        seconds = [after - before for before, after in itertools.pairwise(times)]
        self.parts["rest"] = sum(seconds) - sum(self.parts.values())
        return {"seconds": seconds, "parts": {name: value / len(seconds) for name, value in self.parts.items()}}


class Watched:
    """An iterator over batches that tells the clock of requests; anything else is the iterator's own."""

    def __init__(self, batches: Iterator[Any], clock: Clock) -> None:
        self._batches, self._clock = batches, clock
        self._next = clock.timed(lambda: next(batches), "data")

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> Any:
        self._clock.requests.append(self._clock.now())
        return self._next()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def grad_part() -> str:
    """Keys carry no gradient."""
    return "anchors" if torch.is_grad_enabled() else "keys"


def work_as_published(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of the published way."""
    from published_training import PublishedItems, PublishedTraining, published_batches

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    data = read_data(options.folder)
    items = PublishedItems(data.hdf5, data.pairs, data.background, options.negatives, options.padding)
    training = PublishedTraining(options.dim, QUEUE, options.dropout, 1e-5, device)
    clock = Clock(1, options.steps, device)
    batches = Watched(published_batches(items, options.batch, options.workers, device.type == "cuda"), clock)
    parts = training.choose_parts(*next(batches))
    clock.requests.clear()
    training.embed = clock.timed(training.embed, grad_part)  # type: ignore[method-assign]
    training.optimizer.step = clock.timed(training.optimizer.step, "optimizer")  # type: ignore[method-assign]
    torch.Tensor.backward = clock.timed(torch.Tensor.backward, "anchors")  # type: ignore[method-assign]
    for _ in range(1 + options.steps):
        loss = training.step(*next(batches))
    clock.requests.append(clock.now())
    return {**clock.result(), "loss": loss, "how": f"negatives in {parts} parts"}


def flags(options: argparse.Namespace, output: Path) -> list[str]:
    """The published recipe as flags of ours; more steps than are run, so that batches are made ahead to the end."""
    words: list[object] = ["--features", read_data(options.folder).store, "--vcdb", read_data(options.folder).pickle]
    words += ["--batch-size", options.batch, "--negatives-per-anchor", options.negatives]
    words += ["--max-frames", options.padding, "--dropout", options.dropout, "--threads", options.threads]
    words += ["--init", "published", "--loss", "circle-legacy", "--queue-size", QUEUE, "--momentum", 0]
    words += ["--no-batch-negatives", "--no-queue-positives", "--feature-edits", "none", "--virtual-scenes", 0]
    words += ["--no-swap-pairs", "--weight-decay-on", "all"]
    words += ["--optimizer", "adam", "--lr", 1e-5, "--weight-decay", 1e-4, "--schedule", "constant"]
    words += ["--warmup-steps", 0, "--clip-norm", 0, "--steps", options.steps + 20, "--stop-after", options.steps + 2]
    words += ["--checkpoint-every", 10**6, "--output", output, "--precision", options.precision]
    return [str(word) for word in words + options.ours]


def work_as_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of ours: the recipe and the loop as train/run.py runs them."""
    from reelkin.core.config import parse
    from reelkin.core.engine import start
    from reelkin.train.data.sources import open_features
    from reelkin.train.recipes import tca

    with tempfile.TemporaryDirectory() as scratch, start() as engine:
        config = parse(tca.TcaRecipe, flags(options, Path(scratch) / "run"), prog="train/run.py", example="")
        trainer = tca.build(config, open_features(config.features), engine).trainer
        clock = Clock(1, options.steps, engine.device)
        task, make = trainer.task, trainer.task.batches
        task.batches = lambda steps: Watched(iter(make(steps)), clock)  # type: ignore[method-assign]
        encoders = {id(module): module for module in (task.model, task.key_encoder.module)}
        for module in encoders.values():
            module.forward = clock.timed(module.forward, grad_part)  # type: ignore[method-assign]
        for name in ("all_gather", "all_reduce", "all_gather_object", "synchronize"):
            setattr(engine, name, clock.timed(getattr(engine, name), "collectives"))
        trainer.optimizer.step = clock.timed(trainer.optimizer.step, "optimizer")  # type: ignore[method-assign]
        torch.Tensor.backward = clock.timed(torch.Tensor.backward, "anchors")  # type: ignore[method-assign]
        trainer.train()
        return {**clock.result(), "rank": engine.rank, "how": f"{engine.size} ranks of {options.threads} threads"}


def run_side(side: str, options: argparse.Namespace, ranks: int = 1) -> dict[str, Any]:
    """One side in processes of its own; adds the anchors a second and the peak of memory in bytes."""
    result = options.folder / "result.json"
    result.unlink(missing_ok=True)
    own = {"worker": side, "result": result, "threads": max(1, options.threads // ranks)}
    words = [str(Path(__file__).resolve())]
    for name, value in {**vars(options), **own}.items():
        if name not in ("ours", "ranks", "turns"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    prefix = launcher_prefix(ranks) if ranks > 1 else []
    line = [*prefix, sys.executable, *words, *(["--", *options.ours] if options.ours else [])]
    running = subprocess.Popen(line, env=rank_environment(ranks), stdout=subprocess.DEVNULL)
    peak = 0
    while running.poll() is None:
        try:
            peak = max(peak, tree_bytes(psutil.Process(running.pid)))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    if running.wait() or not result.exists():
        raise SystemExit(f"{side} ended with exit code {running.returncode}")
    found = json.loads(result.read_text())
    rate = options.batch / statistics.median(found["seconds"])
    return {**found, "rate": rate, "peak": peak}


def show(name: str, found: dict[str, Any]) -> None:
    """A line of one side's figures."""
    parts = ", ".join(f"{part} {value:.2f}" for part, value in found["parts"].items())
    print(f"{name} ({found['how']}): {found['rate']:.2f} anchors/s, {found['peak'] / 1e9:.2f} GB", end="")
    print(f"; seconds a step: {parts}", flush=True)


def compare(options: argparse.Namespace) -> None:
    """Turns of both sides, and the ratio."""
    if options.ranks > 1:
        sides = {"1 rank": lambda: run_side("ours", options)}
        sides[f"{options.ranks} ranks"] = lambda: run_side("ours", options, options.ranks)
    else:
        sides = {"published": lambda: run_side("published", options), "ours": lambda: run_side("ours", options)}
    names, ratios, peaks = list(sides), [], []
    for turn in range(options.turns):
        found = {name: sides[name]() for name in (names if turn % 2 == 0 else names[::-1])}
        for name in names:
            show(f"turn {turn}: {name}", found[name])
        ratios.append(found[names[1]]["rate"] / found[names[0]]["rate"])
        peaks.append(found[names[1]]["peak"] / found[names[0]]["peak"])
    print(
        f"{names[1]} against {names[0]}: {statistics.median(ratios):.2f} times the anchors a second "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}) with {statistics.median(peaks):.2f} of the memory"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="anchors of a step, over all ranks")
    parser.add_argument("--negatives", type=int, default=16, help="drawn for each anchor; times batch it divides 4096")
    parser.add_argument("--padding", type=int, default=300, help="most frames of a video")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--lengths", choices=("vcdb", "full"), default="vcdb")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--background", type=int, default=512, help="videos that negatives are drawn from")
    parser.add_argument("--steps", type=int, default=4, help="measured of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=1, help="above 1: ours on 1 rank against ours on so many")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="over all ranks")
    parser.add_argument("--workers", type=int, default=2, help="the published way's DataLoader processes")
    parser.add_argument("--precision", default="float32", help="ours; float32 is the fair one")
    parser.add_argument("--folder", type=Path, help="where the made features are kept; default: a temporary one")
    parser.add_argument("--worker", choices=("published", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("ours", nargs="*", help="further flags of ours, after --")
    options = parser.parse_args()
    if options.worker:
        found = {"published": work_as_published, "ours": work_as_ours}[options.worker](options)
        if not found.get("rank"):
            options.result.write_text(json.dumps(found))
        return
    del options.worker, options.result
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = (options.folder or Path(scratch)).resolve()
        make_data(options.folder, options)
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        print(f"torch {torch.__version__}, {options.threads} threads on {cores} cores, load {load:.1f}", flush=True)
        compare(options)


if __name__ == "__main__":
    main()
