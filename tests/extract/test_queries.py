"""Queries: raw files get the numbers that the store would hold, or are told why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.engine import Engine
from reelkin.core.errors import ReelkinError, UsageError
from reelkin.extract.describe import Describer, check_pca
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.pca import PCA, fit_pca
from reelkin.extract.queries import describer_from, describer_of, extract_videos
from reelkin.extract.reducing.reduction import fit_on_store
from reelkin.shards.reader import ShardSet
from reelkin.tests.extract.conftest import NAMES, MakeDescriber, OtherEncoder, extract


def test_raw_files_get_the_numbers_of_the_store(
    shards: ShardSet, video_folder: Path, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    raw = extract(shards, tmp_path / "raw", tiny(), engine)
    fit_on_store(raw, 4, engine).save(tmp_path / "pca.safetensors")
    pca = PCA.load(tmp_path / "pca.safetensors")
    store = extract(shards, tmp_path / "store", tiny(pca), engine, pca_path=tmp_path / "pca.safetensors")
    (tmp_path / "pca.safetensors").unlink()  # the store keeps its own
    found = extract_videos([video_folder], describer_of(store))
    assert sorted(found.videos) == list(NAMES)
    for name, (features, times) in found.videos.items():
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, store.features(name), atol=2e-3)
        np.testing.assert_array_equal(times, store.times(name))
    assert [(row.video_id, row.reason) for row in found.rejects] == [("text", "not-a-video")]
    named = extract_videos({"query": video_folder / "a.mp4", "gone": tmp_path / "gone.mp4"}, describer_of(store))
    assert list(named.videos) == ["query"] and [row.reason for row in named.rejects] == ["missing"]


def test_queries_need_the_encoder_of_the_store(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, tiny_file: Path, engine: Engine
) -> None:
    moved = tmp_path / "moved.pt"
    shutil.copy(tiny_file, moved)
    describer = Describer(build_encoder(EncoderSpec("torchscript", str(moved), 48, 40)))
    store = extract(shards, tmp_path / "store", describer, engine)
    moved.unlink()
    with pytest.raises(ReelkinError, match="are not there; pass the file as --weights"):
        describer_of(store)
    assert describer_of(store, weights=tiny_file).encoder.dim == 12
    other = tmp_path / "other.pt"
    torch.jit.script(OtherEncoder()).save(str(other))
    with pytest.raises(ReelkinError, match="the encoder differs"):
        describer_of(store, weights=other)


def test_a_store_made_on_a_gpu_answers_queries_on_a_machine_without_one(
    shards: ShardSet, tmp_path: Path, tiny: MakeDescriber, engine: Engine
) -> None:
    store = extract(shards, tmp_path / "store", tiny(), engine)
    encoder = {**store.info["encoder"], "precision": "float16", "compile": True}
    with describer_from({**store.info, "encoder": encoder}, store.path, device="cpu") as describer:
        assert describer.encoder.info["precision"] in ("float32", "bfloat16")
        assert describer.encoder.info["compile"] is False


def test_a_pca_of_another_encoder_is_refused(tiny: MakeDescriber) -> None:
    encoder = tiny().encoder
    x = np.random.default_rng(0).normal(size=(50, 12))
    info = {"encoder": {**encoder.info, "weights_sha256": "f" * 64}}
    with pytest.raises(UsageError, match="fitted on another encoder's features: weights_sha256"):
        check_pca(fit_pca(x, 3, info=info), encoder)
    with pytest.raises(UsageError, match="takes 5 dimensions, the encoder gives 12"):
        check_pca(fit_pca(x[:, :5], 3), encoder)
