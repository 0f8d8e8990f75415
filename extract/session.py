"""What the two commands do between reading their flags and their last line: start the engine, call the library."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ..core.cores import share_of_cores, use_share_of_cores
from ..core.engine import Engine, start
from ..core.errors import ExitCode
from ..core.ids import read_ids
from ..core.logs import setup_logging
from ..shards.reader import ShardSet
from .decoding.pool import DaliSettings
from .decoding.route import Hardware
from .describe import Describer
from .encoders import build_encoder
from .options import ExtractConfig, ExtractionOptions, FitPcaConfig
from .pca import PCA
from .raw import extract_raw
from .reducing.reduction import fit_on_shards, fit_on_store
from .running.forecast import forecast
from .running.job import Job
from .running.pipeline import extract_store
from .store import FeatureStore


@contextmanager
def _started(config: ExtractionOptions) -> Iterator[Engine]:
    with start(config.backend) as engine:
        setup_logging(engine.rank)
        use_share_of_cores()
        # Being asked to end is like Ctrl-C: what is published is kept, and the same command goes on.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield engine
        finally:
            signal.signal(signal.SIGTERM, before)


def _describer(config: ExtractionOptions, engine: Engine, pca: PCA | None = None) -> Describer:
    return Describer(
        build_encoder(config.spec, engine.device, engine),
        pca,
        sampling=config.chosen,
        batch_frames=config.batch_frames,
        workers=config.decode_workers,
        timeout_seconds=config.timeout_seconds,
        dali=_dali(config, engine),
    )


def _dali(config: ExtractionOptions, engine: Engine) -> DaliSettings | None:
    on_gpu = engine.device.type == "cuda"
    there = find_spec("nvidia") and find_spec("nvidia.dali")
    if config.decoder == "pyav" or (config.decoder == "auto" and not (on_gpu and there)):
        return None
    device_id = engine.device.index or 0 if on_gpu else 0
    hardware = Hardware.gpu(device_id) if on_gpu else Hardware()
    return DaliSettings(hardware, device_id, share_of_cores(), hardware.budget)


def run_extract(config: ExtractConfig) -> int:
    """Do what ``extract/run.py`` was asked; returns its exit code."""
    with _started(config) as engine:
        began = time.monotonic()
        # what is soon seen to be missing before what takes long
        shards = ShardSet.open(config.shards) if config.shards else None
        pca = PCA.load(config.pca) if config.pca else None
        with _describer(config, engine, pca) as describer:
            if shards is None:
                store = extract_raw(config, describer, engine)
            else:
                if config.dry_run:
                    return _say(engine, forecast(shards, config.limit, describer, engine))
                job = Job(shards, config.output, config.pca, config.limit, config.rebuild, config.retry)
                store = extract_store(job, describer, engine)
            return _finish(store, config, engine, describer, time.monotonic() - began)


def _finish(store: FeatureStore, config: ExtractConfig, engine: Engine, describer: Describer, seconds: float) -> int:
    pool = describer.pool
    ranks = engine.all_gather_object([describer.frames_encoded, pool.waited, pool.retaken, pool.replaced], "sums")
    encoded, waited, retaken, replaced = (sum(values) for values in zip(*ranks, strict=True))
    frames = sum(block["num_frames"] for block in store.info["blocks"])
    total = len(store) + len(store.rejects)
    encoder = store.info.get("encoder") or {}
    lines = [
        f"{len(store)} videos, {frames} frames of {store.dim} dimensions; {len(store.rejects)} rejected; "
        f"{seconds:.1f} s",
        *_reject_lines(store),
        f"encoded now: {encoded} frames, {encoded / seconds:.3g} a second; {waited / engine.size / seconds:.0%} of the "
        "time waiting for decoding",
        *([f"PyAV decoded {retaken} clips that DALI failed at"] if retaken else []),
        *([f"{replaced} decoding processes died and were replaced"] if replaced else []),
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
    with _started(config) as engine:
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
            assert config.shards is not None  # the configuration has seen to it: either --shards or --features
            shards = ShardSet.open(config.shards)
            with _describer(config, engine) as describer:
                if config.dry_run:
                    return _say(engine, forecast(shards, config.limit, describer, engine))
                pca = fit_on_shards(shards, describer, config.components, engine, **sampling)
        if engine.is_main:
            pca.save(config.output)
        kept = f"{pca.info['variance_kept']:.1%} of the variance of {pca.info['num_samples']} frames"
        return _say(engine, f"{pca.input_dim} -> {pca.dim} dimensions, {kept}\nwritten: {config.output}")


def _say(engine: Engine, text: str, code: ExitCode = ExitCode.OK) -> ExitCode:
    if engine.is_main:
        print(text, flush=True)
    return code
