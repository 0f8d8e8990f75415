"""What the two commands do between reading their flags and their last line: start the engine, call the library."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.engine import Engine, start
from ..core.errors import ExitCode
from ..core.ids import read_ids
from ..core.logs import setup_logging
from ..shards.manifest import VideoRow
from ..shards.reader import ShardSet
from .describe import Describer, use_share_of_cores
from .encoders import build_encoder
from .options import ExtractConfig, FitPcaConfig, InputOptions
from .pca import PCA
from .pipeline import extract_store, list_work
from .reduction import apply_to_store, fit_on_shards, fit_on_store
from .store import FeatureStore


def _inputs(config: InputOptions, engine: Engine, pca: PCA | None) -> tuple[ShardSet, Describer]:
    """The shards that --shards names, and what describes them."""
    assert config.shards is not None  # the configuration has seen to it: either --shards or --features
    shards = ShardSet.open(config.shards)
    encoder = build_encoder(config.spec, engine.device, engine)
    describer = Describer(
        encoder, pca, fps=config.fps, batch_frames=config.batch_frames, decode_threads=config.decode_threads
    )
    return shards, describer


def run_extract(config: ExtractConfig) -> int:
    """Do what ``extract/run.py`` was asked; returns its exit code."""
    with start(config.backend) as engine:
        setup_logging(engine.rank)
        use_share_of_cores()
        began = time.monotonic()
        if config.features is not None:
            assert config.pca is not None  # the configuration has seen to it
            source = FeatureStore.open(config.features)
            if config.dry_run:
                return _say(engine, f"would apply {config.pca} to {source} and write {config.output}")
            store = apply_to_store(
                source, config.pca, config.output, engine, rebuild=config.rebuild, limit=config.limit
            )
            return _finish(store, config, engine, time.monotonic() - began)
        shards, describer = _inputs(config, engine, PCA.load(config.pca) if config.pca else None)
        if config.dry_run:
            return _say(engine, forecast(shards, shards.videos[: config.limit], describer, engine.size))
        store = extract_store(
            shards,
            config.output,
            describer,
            engine,
            pca_path=config.pca,
            limit=config.limit,
            rebuild=config.rebuild,
        )
        return _finish(store, config, engine, time.monotonic() - began)


def _finish(store: FeatureStore, config: ExtractConfig, engine: Engine, seconds: float) -> int:
    frames = sum(store.num_frames(video_id) for video_id in store.video_ids)
    counts = f"{len(store)} videos, {frames} frames of {store.dim} dimensions; {len(store.rejects)} rejected"
    total = len(store) + len(store.rejects)
    encoder = store.info.get("encoder") or {}
    lines = [
        f"{counts}; {seconds:.1f} s",
        *_reject_lines(store),
        f"encoder {encoder.get('name')}, weights {encoder.get('weights')}"
        + (" (RANDOM: nothing was learnt)" if encoder.get("random_weights") else ""),
        f"written: {config.output}/store.json, manifest.parquet, {len(store.info['blocks'])} blocks",
    ]
    code = ExitCode.OK
    if total and len(store.rejects) / total > config.max_reject_share:
        code = ExitCode.REJECTS
        share = len(store.rejects) / total
        lines.append(f"error: {share:.0%} rejected, over --max-reject-share {config.max_reject_share:.0%}")
    return _say(engine, "\n".join(lines), code)


def _reject_lines(store: FeatureStore) -> list[str]:
    reasons = sorted({row.reason for row in store.rejects})
    counts = {reason: sum(row.reason == reason for row in store.rejects) for reason in reasons}
    return [f"  rejected, {reason}: {count}" for reason, count in counts.items()]


def run_fit_pca(config: FitPcaConfig) -> int:
    """Do what ``extract/fit_pca.py`` was asked; returns its exit code."""
    with start(config.backend) as engine:
        setup_logging(engine.rank)
        use_share_of_cores()
        sampling: dict[str, Any] = {
            "frames_per_video": config.frames_per_video,
            "seed": config.seed,
            "whiten": config.whiten,
            "limit": config.limit,
            "only": None if config.video_ids is None else read_ids(config.video_ids),
        }
        if config.features is not None:
            store = FeatureStore.open(config.features)
            if config.dry_run:
                return _say(engine, f"would fit {config.components} components on {store} and write {config.output}")
            pca = fit_on_store(store, config.components, engine, **sampling)
        else:
            shards, describer = _inputs(config, engine, None)
            if config.dry_run:
                return _say(engine, forecast(shards, shards.videos[: config.limit], describer, engine.size))
            pca = fit_on_shards(shards, describer, config.components, engine, **sampling)
        if engine.is_main:
            pca.save(config.output)
        kept = f"{pca.info['variance_kept']:.1%} of the variance of {pca.info['num_samples']} frames"
        return _say(engine, f"{pca.input_dim} -> {pca.dim} dimensions, {kept}\nwritten: {config.output}")


def _say(engine: Engine, text: str, code: ExitCode = ExitCode.OK) -> ExitCode:
    if engine.is_main:
        print(text, flush=True)
    return code


def forecast(shards: ShardSet, videos: Sequence[VideoRow], describer: Describer, size: int) -> str:
    """What an extraction would cost: counts, disk, and a time from a measured forward pass."""
    work = list_work(shards, videos)
    accepted = [video for item in work for video in item.videos]
    frames = sum(max(1, round(video.duration_seconds * describer.fps)) for video in accepted)
    pre = describer.encoder.preprocessing
    height = pre.crop or pre.short_side
    width = pre.crop or pre.short_side * 16 // 9
    batch = np.random.default_rng(0).integers(
        0, 256, (min(8, describer.batch_frames), height, width, 3), dtype=np.uint8
    )
    describer.encoder(batch)  # the first pass sets things up
    began = time.perf_counter()
    describer.encoder(batch)
    rate = len(batch) / (time.perf_counter() - began)
    megabytes = frames * (describer.dim * 2 + 8) / 1e6
    hours = sum(video.duration_seconds for video in accepted) / 3600
    batch_memory = describer.batch_frames * height * width * 3 / 1e6
    return "\n".join(
        [
            f"{len(accepted)} videos in {len(work)} shards, {hours:.2f} hours; {len(videos) - len(accepted)} rejected",
            f"about {frames} frames at {describer.fps:g} per second, {describer.dim} dimensions each",
            f"disk: {megabytes:.1f} MB; memory for frames: {4 * batch_memory:.0f} MB a rank, beside the network",
            f"time: about {frames / rate / size:.0f} s of encoding on {size} ranks ({rate:.1f} frames/s measured "
            f"for {width} x {height} pixels), decoding runs beside it",
        ]
    )
