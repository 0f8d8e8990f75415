"""A PCA fitted on shards or on their store, and applied to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reelkin.core.engine import Engine
from reelkin.core.errors import UsageError
from reelkin.extract.pca import PCA
from reelkin.extract.reducing.applying import apply_to_store
from reelkin.extract.reducing.reduction import draw_frames, fit_on_shards, fit_on_store
from reelkin.shards.reader import ShardSet
from reelkin.tests.extract.conftest import NAMES, MakeDescriber, extract


def test_fitting_on_shards_and_on_their_store_agree(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    store = extract(shards, tmp_path / "raw", tiny(), engine)
    settings = {"frames_per_video": 4, "seed": 7}
    from_store = fit_on_store(store, 3, engine, **settings)  # type: ignore[arg-type]
    describer = tiny()
    from_shards = fit_on_shards(shards, describer, 3, engine, **settings)  # type: ignore[arg-type]
    assert from_shards.info["num_samples"] == from_store.info["num_samples"] == 20 == describer.frames_encoded
    # the same frames were drawn; those of the store are rounded to float16
    np.testing.assert_allclose(from_shards.mean, from_store.mean, atol=1e-3)
    np.testing.assert_allclose(from_shards.variances, from_store.variances, rtol=0.02)
    other_seed = fit_on_store(store, 3, engine, frames_per_video=4, seed=8)
    assert not np.allclose(other_seed.mean, from_store.mean, atol=1e-3)


def test_fitting_on_named_videos_sees_no_others(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    store = extract(shards, tmp_path / "raw", tiny(), engine)
    only = set(store.video_ids[1:3])
    whole = np.concatenate([store.features(video_id) for video_id in sorted(only)]).astype(np.float64)
    fitted = fit_on_store(store, 3, engine, frames_per_video=1000, only=only)
    np.testing.assert_allclose(fitted.mean, whole.mean(axis=0), atol=1e-5)
    assert fitted.info["num_samples"] == len(whole)
    from_shards = fit_on_shards(shards, tiny(), 3, engine, frames_per_video=1000, only=only)
    assert from_shards.info["num_samples"] == len(whole)
    with pytest.raises(UsageError, match="none of the 1 named videos"):
        fit_on_store(store, 3, engine, only={"nowhere"})


def test_drawn_frames_do_not_repeat_and_depend_on_seed_and_video_only() -> None:
    drawn = draw_frames("v", 100, 10, seed=0)
    assert len(set(drawn)) == 10 and (np.diff(drawn) > 0).all() and drawn.max() < 100
    np.testing.assert_array_equal(drawn, draw_frames("v", 100, 10, seed=0))
    assert list(drawn) != list(draw_frames("w", 100, 10, seed=0)) != list(draw_frames("v", 100, 10, seed=1))
    np.testing.assert_array_equal(draw_frames("v", 3, 10, seed=0), [0, 1, 2])


def test_applying_a_pca_to_a_store_equals_extracting_with_it(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    raw = extract(shards, tmp_path / "raw", tiny(), engine)
    path = tmp_path / "pca.safetensors"
    fit_on_store(raw, 3, engine).save(path)
    reduced = apply_to_store(raw, path, tmp_path / "reduced", engine)
    at_once = extract(shards, tmp_path / "at_once", tiny(PCA.load(path)), engine, pca_path=path)
    assert reduced.video_ids == at_once.video_ids and len(reduced.rejects) == len(at_once.rejects) == 1
    for name in NAMES:
        np.testing.assert_allclose(reduced.features(name), at_once.features(name), atol=0.03)
        np.testing.assert_array_equal(reduced.times(name), at_once.times(name))
    assert reduced.info["pca"] == at_once.info["pca"] and reduced.info["encoder"] == raw.info["encoder"]
    with pytest.raises(UsageError, match="made with a PCA already"):
        apply_to_store(reduced, path, tmp_path / "twice", engine)
    with pytest.raises(UsageError, match="fit on a store without one"):
        fit_on_store(reduced, 2, engine)
    two = apply_to_store(raw, path, tmp_path / "two", engine, limit=2)
    np.testing.assert_array_equal(two.features("b"), reduced.features("b"))
    assert two.video_ids == ["a", "b"]
