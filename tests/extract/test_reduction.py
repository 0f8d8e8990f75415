"""Applying a PCA to a store: resumable, shared by ranks, refused where it does not fit; fits over ranks' shares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.engine import Engine
from reelkin.core.engine.single import SingleEngine
from reelkin.core.errors import ExitCode, Reason, ReelkinError, UsageError
from reelkin.extract import reduce as reduce_command
from reelkin.extract.pca import PCA, CovarianceSum, fit_pca
from reelkin.extract.reducing import applying
from reelkin.extract.reducing.applying import apply_to_store
from reelkin.extract.reducing.reduction import draw_frames, fit_on_store
from reelkin.extract.storage.removal import remove
from reelkin.extract.store import FeatureStore, StoreRow, write_store

ENCODER = {"name": "test", "weights_sha256": "0" * 64, "dim": 24, "preprocessing": {"crop": 0}}
INFO = {"encoder": ENCODER, "pca": None, "sampling": {"fps": 1.0}, "decoder": "pyav"}
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def engine() -> Engine:
    return SingleEngine(torch.device("cpu"))


def make_videos(count: int = 12) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(24, 24))
    lengths = [number % 5 + 1 for number in range(count)]
    return {
        f"v{number:02d}": ((rng.normal(size=(length, 24)) @ mixing + 3).astype(np.float16), np.arange(float(length)))
        for number, length in enumerate(lengths)
    }


def make_store(folder: Path, count: int = 12) -> FeatureStore:
    reject = StoreRow.rejected("bad", Reason.DAMAGED, "cut")
    return write_store(folder, make_videos(count), INFO, block_bytes=400, rejects=[reject])


def save_pca(store: FeatureStore, path: Path, engine: Engine, whiten: bool = True) -> PCA:
    pca = fit_on_store(store, 6, engine, whiten=whiten)
    pca.save(path)
    return pca


@pytest.mark.parametrize("whiten", [True, False])
def test_every_video_is_projected_as_by_hand(whiten: bool, tmp_path: Path, engine: Engine) -> None:
    store = make_store(tmp_path / "raw")
    pca = save_pca(store, tmp_path / "pca", engine, whiten)
    reduced = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    reduced.verify()
    assert reduced.video_ids == store.video_ids and len(store.blocks) == len(reduced.blocks) > 2
    mean, components = pca.mean.double().numpy(), pca.components.double().numpy()
    scale = np.sqrt(pca.variances.double().numpy()) if whiten else 1.0
    for video_id in store.video_ids:
        y = (store.features(video_id).astype(np.float64) - mean) @ components.T / scale
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        np.testing.assert_allclose(reduced.features(video_id), y, atol=1e-3)
        np.testing.assert_array_equal(reduced.times(video_id), store.times(video_id))
    assert [row.video_id for row in reduced.rejects] == ["bad"]
    assert reduced.info["encoder"] == ENCODER and reduced.info["pca"]["dim"] == 6
    assert PCA.load(tmp_path / "less" / reduced.info["pca"]["file"]).whiten is whiten


def test_a_stopped_run_goes_on_with_the_blocks_that_are_missing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "raw")
    save_pca(store, tmp_path / "pca", engine)
    whole = apply_to_store(store, tmp_path / "pca", tmp_path / "whole", engine)
    write, left = applying.write_block, [2]

    def stops(path: Path, *arguments: object) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return write(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(applying, "write_block", stops)
    with pytest.raises(KeyboardInterrupt):
        apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    monkeypatch.undo()
    with pytest.raises(ReelkinError, match=r"no store\.json"):
        FeatureStore.open(tmp_path / "less")
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "less").glob("*.safetensors")}
    assert len(done) == 2 < len(store.blocks)
    again = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    assert again.info == whole.info
    assert all((tmp_path / "less" / name).stat().st_mtime_ns == time for name, time in done.items())


def test_nothing_is_done_twice_and_a_cut_block_is_done_again(tmp_path: Path, engine: Engine) -> None:
    store = make_store(tmp_path / "raw")
    save_pca(store, tmp_path / "pca", engine)
    first = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "less").glob("features-*")}
    cut = tmp_path / "less" / first.blocks[1].name
    cut.write_bytes(cut.read_bytes()[:-2])
    again = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    again.verify()
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {cut.name, cut.stem + ".json"} and again.info == first.info


def test_what_was_taken_out_of_either_store_stays_out(tmp_path: Path, engine: Engine) -> None:
    store = make_store(tmp_path / "raw")
    save_pca(store, tmp_path / "pca", engine)
    before = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    kept = {video_id: before.features(video_id) for video_id in before.video_ids}
    remove(tmp_path / "less", ["v03"])
    remove(tmp_path / "raw", ["v07"])
    for rebuild in (False, True):
        source = FeatureStore.open(tmp_path / "raw")
        again = apply_to_store(source, tmp_path / "pca", tmp_path / "less", engine, rebuild=rebuild)
        again.verify()
        assert again.video_ids == [video_id for video_id in store.video_ids if video_id not in ("v03", "v07")]
        assert {row.video_id: row.reason for row in again.rejects} == {
            "bad": "damaged",
            "v03": "removed",
            "v07": "removed",
        }
        for video_id in again.video_ids:
            np.testing.assert_allclose(again.features(video_id), kept[video_id], atol=1e-3)


def test_a_limit_takes_the_first_videos_and_a_later_run_the_rest(tmp_path: Path, engine: Engine) -> None:
    store = make_store(tmp_path / "raw")
    save_pca(store, tmp_path / "pca", engine)
    part = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine, limit=5)
    assert part.video_ids == store.video_ids[:5]
    part.verify()
    whole = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    assert whole.video_ids == store.video_ids
    whole.verify()


def test_a_pca_that_does_not_fit_is_refused(tmp_path: Path, engine: Engine) -> None:
    store = make_store(tmp_path / "raw")
    pca = save_pca(store, tmp_path / "pca", engine)
    other = {**pca.info, "encoder": {**ENCODER, "weights_sha256": "1" * 64}}
    PCA(pca.mean, pca.components, pca.variances, True, other).save(tmp_path / "other")
    with pytest.raises(UsageError, match="fitted on other features: weights_sha256"):
        apply_to_store(store, tmp_path / "other", tmp_path / "less", engine)
    fit_pca(np.random.default_rng(0).normal(size=(50, 9)), 3).save(tmp_path / "short")
    with pytest.raises(UsageError, match="takes 9 dimensions, .* has 24"):
        apply_to_store(store, tmp_path / "short", tmp_path / "less", engine)
    with pytest.raises(UsageError, match="is the store that the PCA is applied to"):
        apply_to_store(store, tmp_path / "pca", tmp_path / "raw", engine)
    assert not (tmp_path / "less").exists()
    reduced = apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    with pytest.raises(UsageError, match="was made with a PCA already"):
        apply_to_store(reduced, tmp_path / "pca", tmp_path / "twice", engine)
    save_pca(store, tmp_path / "pca", engine, whiten=False)
    with pytest.raises(UsageError, match="other settings .*pca_sha256.*pass --rebuild"):
        apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine)
    FeatureStore.open(tmp_path / "less").verify()
    apply_to_store(store, tmp_path / "pca", tmp_path / "less", engine, rebuild=True).verify()


def test_the_command_counts_first_and_then_does_it(
    tmp_path: Path, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "raw")
    save_pca(store, tmp_path / "pca", engine)
    flags = ["--features", str(store.path), "--pca", str(tmp_path / "pca"), "--output", str(tmp_path / "less")]
    assert reduce_command.main([*flags, "--dry-run"]) == ExitCode.OK
    told = capfd.readouterr().out
    count = len(store.blocks)
    assert f"12 videos in {count} blocks, 24 -> 6 dimensions; {count} blocks to do" in told and "are free" in told
    assert not (tmp_path / "less").exists()
    assert reduce_command.main(flags) == ExitCode.OK
    assert "24 -> 6 dimensions; 1 without features" in capfd.readouterr().out
    assert reduce_command.main([*flags, "--dry-run"]) == ExitCode.OK
    assert "; 0 blocks to do" in capfd.readouterr().out
    with pytest.raises(SystemExit) as stop:
        reduce_command.main([*flags[:-1], str(store.path)])
    assert stop.value.code == ExitCode.USAGE and "another folder than --features" in capfd.readouterr().err


class Ranks:
    """Sums over shares of ranks, by hand: stands for an engine on each of them, one after the other."""

    def __init__(self, shares: list[CovarianceSum]) -> None:
        self.shares = shares

    def sums(self, name: str, mean: torch.Tensor) -> torch.Tensor:
        if name == "PCA mean":
            counted = [torch.tensor([s.count, s.left_out], dtype=torch.float64) for s in self.shares]
            return sum(torch.cat([s.mean * s.count, c]) for s, c in zip(self.shares, counted, strict=True))  # type: ignore[return-value]
        shifts = [share.mean - mean for share in self.shares]
        return sum(s.scatter + s.count * torch.outer(d, d) for s, d in zip(self.shares, shifts, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("ranks", [1, 2, 3, 12, 20])
def test_shares_of_any_number_of_ranks_add_up_to_the_same_pca(ranks: int, tmp_path: Path, engine: Engine) -> None:
    """Also with more ranks than videos: some have nothing to add."""
    store = make_store(tmp_path / "raw")
    whole = fit_on_store(store, 6, engine, frames_per_video=3)
    shares = []
    for rank in range(ranks):
        share = CovarianceSum(24)
        for video_id in store.video_ids[rank::ranks]:
            share.add(store.features(video_id)[draw_frames(video_id, store.num_frames(video_id), 3, 0)])
        share.flush()
        shares.append(share)
    together = Ranks(shares)
    packed = together.sums("PCA mean", torch.zeros(24))
    mean = packed[:24] / packed[24]
    total = CovarianceSum(24)
    total.count, total.mean, total._upper = int(packed[24]), mean, together.sums("PCA scatter", mean)
    pca = total.solve(6)
    assert pca.info["num_samples"] == whole.info["num_samples"]
    for name in ("mean", "components", "variances"):
        torch.testing.assert_close(getattr(pca, name), getattr(whole, name), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_horovod_ranks_fit_and_apply_what_one_does(ranks: int, tmp_path: Path, engine: Engine) -> None:
    pytest.importorskip("horovod")
    store = make_store(tmp_path / "raw")
    two = write_store(
        tmp_path / "two",
        {k: (np.tile(v, (5, 1)), np.arange(5.0 * len(v))) for k, (v, _) in list(make_videos().items())[3:5]},
        INFO,
    )
    launcher = [str(BIN / "horovodrun"), "-np", str(ranks), "--gloo", sys.executable]
    for source, components in ((store, 6), (two, 3)):  # two videos: one of three ranks has none
        fitted = tmp_path / f"{source.path.name}.pca"
        flags = ["--features", str(source.path), "--components", str(components), "--output", str(fitted)]
        run(launcher, "extract/fit_pca.py", *flags)
        one, many = fit_on_store(source, components, engine), PCA.load(fitted)
        assert many.info == one.info
        for name in ("mean", "components", "variances"):
            torch.testing.assert_close(getattr(many, name), getattr(one, name), rtol=1e-6, atol=1e-6)
    one = apply_to_store(store, tmp_path / "raw.pca", tmp_path / "one", engine)
    flags = ["--features", str(store.path), "--pca", str(tmp_path / "raw.pca"), "--output", str(tmp_path / "many")]
    run(launcher, "extract/reduce.py", *flags)
    many = FeatureStore.open(tmp_path / "many")
    many.verify()
    assert many.video_ids == one.video_ids
    for video_id in one.video_ids:
        np.testing.assert_allclose(many.features(video_id), one.features(video_id), atol=1e-3)


def run(launcher: list[str], *arguments: str) -> None:
    done = subprocess.run([*launcher, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
