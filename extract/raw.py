"""From raw videos to PCA features in one go: shards, features, a PCA fitted on them, and the store after the PCA."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from ..core.engine import Engine
from ..core.files import sha256_file
from ..shards.packing.building import build
from ..shards.packing.config import BuildConfig
from ..shards.reader import ShardSet
from .describe import Describer
from .options import ExtractConfig
from .pca import PCA
from .reducing.applying import apply_to_store
from .reducing.reduction import fit_on_store
from .running.job import Job
from .running.pipeline import SHARE_SECONDS, extract_store
from .store import FeatureStore

log = logging.getLogger("reelkin.extract")


def extract_raw(config: ExtractConfig, describer: Describer, engine: Engine) -> FeatureStore:
    """Do what the published TCA code does in four steps (frames, features, PCA, applying it), restartable throughout.

    What lies in between is kept in the folder OUTPUT.work; each step skips what an earlier run has done. Videos that
    have come since are taken in.

    Returns:
        The store in ``config.output``.

    Raises:
        ReelkinError: as the steps do: `build`, `extract_store`, `fit_on_store`, `apply_to_store`.
    """
    folder = Path(os.path.abspath(config.output) + ".work")
    packing = BuildConfig(
        config.videos,
        folder / "shards",
        limit=config.limit,
        max_reject_share=1.0,  # rejects are counted once, at the end, against this command's own budget
        add=config.limit is None and not config.rebuild,  # with a limit each addition would take so many more
        rebuild=config.rebuild,
    )
    with engine.extend_deadline(SHARE_SECONDS):
        build(packing, engine)
    shards = ShardSet.open(folder / "shards")
    job = Job(shards, config.output, config.pca, None, config.rebuild, config.retry)
    if config.components is None:
        return extract_store(job, describer, engine)
    features = extract_store(replace(job, output=folder / "features"), describer, engine)
    file = folder / "pca.safetensors"
    # Another number of ranks would round otherwise, and be another PCA.
    if not engine.on_main(lambda: _fits(file, features, config.components), "PCA there"):
        pca = fit_on_store(features, config.components, engine)
        if engine.is_main:
            replace(pca, info={**pca.info, "fitted_on": _hash(features)}).save(file)
            log.info("PCA: %d -> %d dimensions, %s of the variance", pca.input_dim, pca.dim, pca.info["variance_kept"])
        engine.barrier("PCA saved")
    return apply_to_store(features, file, config.output, engine, rebuild=config.rebuild)


def _fits(file: Path, features: FeatureStore, components: int | None) -> bool:
    """Whether a PCA of so many components that was fitted on these features is there."""
    if not file.exists():
        return False
    pca = PCA.load(file)
    return pca.info.get("fitted_on") == _hash(features) and pca.dim == components


def _hash(features: FeatureStore) -> str:
    return sha256_file(features.path / "store.json")  # it names the hashes of all blocks
