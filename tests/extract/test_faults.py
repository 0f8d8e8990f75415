"""What can go wrong around an extraction: the command says what, where and what to do, leaves nothing half written, and
a later good run completes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reelkin.core.alone import alone_in
from reelkin.core.errors import ExitCode, ReelkinError
from reelkin.core.files import is_partial
from reelkin.extract import run
from reelkin.extract.pca import PCA, fit_pca
from reelkin.extract.store import FeatureStore
from reelkin.shards.reader import ShardSet
from reelkin.shards.video.encode import VideoWriter
from reelkin.tests.extract.conftest import NAMES, OtherEncoder, make_shards, write_quarters
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.runs import Ran, children, contents, run_here

FRAMES = 40
"""Of the five videos at 2 a second."""


class Raising(nn.Module):
    """Encodes a batch of noise, as it is tried with, and a few batches more."""

    def __init__(self, batches: int, error: str) -> None:
        super().__init__()
        self.left = batches
        self.error = error

    def forward(self, frames: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise ValueError(self.error)
        return frames.float().mean(dim=(2, 3))


class NotFinite(nn.Module):
    """Not a number for red pictures, infinity for blue ones."""

    def forward(self, frames: Tensor) -> Tensor:
        mean = frames.float().mean(dim=(2, 3))
        red, blue = mean[:, :1] > mean[:, 2:] + 150, mean[:, 2:] > mean[:, :1] + 150
        mean = torch.where(red, torch.full_like(mean, float("nan")), mean)
        return torch.where(blue, torch.full_like(mean, float("inf")), mean)


Command = Callable[..., Ran]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def command(tiny_file: Path, store: Path) -> Command:
    """Runs ``extract/run.py`` into the store with the tiny encoder, one frame in a batch."""

    def go(shards: Path, *flags: str | Path, weights: Path = tiny_file, output: Path = store) -> Ran:
        settings = ("--size", "48", "--crop", "40", "--fps", "2", "--batch-frames", "1", "--decode-workers", "1")
        before = children()
        ran = run_here(
            run.main,
            *("--shards", shards, "--output", output, "--encoder", "torchscript", "--weights", weights),
            *settings,
            *flags,
        )
        assert children() == before
        return ran

    return go


@pytest.fixture
def own(shards: ShardSet, tmp_path: Path) -> Path:
    """The three shards, to be spoilt."""
    return Path(shutil.copytree(shards.folder, tmp_path / "shards"))


def fails(ran: Ran, *words: str, code: ExitCode = ExitCode.FAILED) -> None:
    """One line that says it all, no traceback."""
    assert ran.code == code, ran
    (line,) = [line for line in ran.log.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, line
    assert "Traceback" not in ran.log


def nothing_half_written(store: Path) -> None:
    """No partial file, and what stands there is no store; every block has its record, and every record its block."""
    assert not [path for path in store.rglob("*") if is_partial(path)]
    assert not (store / "store.json").exists() and not (store / "manifest.parquet").exists()
    blocks, records = ({path.stem for path in store.glob(f"features-*.{kind}")} for kind in ("safetensors", "json"))
    assert records <= blocks


def completes(ran: Ran, store: Path, fresh: int | None = None) -> None:
    """The run is good; ``fresh`` frames were encoded for it."""
    assert ran.code == ExitCode.OK, ran
    found = FeatureStore.open(store)
    found.verify()
    assert found.video_ids == list(NAMES)
    assert not [path for path in store.iterdir() if path.name.startswith(".")]
    assert f"{FRAMES} frames of 12 dimensions" in ran.said
    if fresh is not None:
        assert f"encoded now: {fresh} frames" in ran.said


# --- shards that are not what their manifest says


def spoil_a_byte(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("spoil", [spoil_a_byte, cut_off, Path.unlink], ids=["byte", "cut", "gone"])
def test_a_shard_that_has_changed_since_ends_the_run_and_mended_it_goes_on(
    spoil: Callable[[Path], object], own: Path, shards: ShardSet, store: Path, command: Command
) -> None:
    name = "clips-000001.tar"
    spoil(own / name)
    fails(command(own), name, "shards/build.py")
    if store.exists():
        nothing_half_written(store)
    shutil.copy(shards.folder / name, own / name)
    completes(command(own), store)


def test_an_empty_set_of_shards_gives_an_empty_store_or_says_why(tmp_path: Path, store: Path, command: Command) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    videos.make_text(folder / "a.mp4")
    shards = make_shards(folder, tmp_path / "none")
    assert command(shards.folder, "--max-reject-share", "1").code == ExitCode.OK
    found = FeatureStore.open(store)
    assert len(found) == 0 and [row.reason for row in found.rejects] == ["not-a-video"] and found.info["blocks"] == []
    assert command(shards.folder).code == ExitCode.REJECTS


def test_a_folder_without_shards_is_named(tmp_path: Path, store: Path, command: Command) -> None:
    fails(command(tmp_path / "nowhere"), str(tmp_path / "nowhere"), "shards/build.py")
    assert not store.exists()


# --- a PCA, or weights, of something else


def a_pca(path: Path, dim: int, encoder: dict[str, object] | None = None) -> Path:
    x = np.random.default_rng(0).normal(size=(50, dim)).astype(np.float32)
    fit_pca(x, 3, info={"encoder": encoder} if encoder else {}).save(path)
    return path


def test_a_pca_of_another_encoder_of_other_dimensions_or_none_at_all(
    shards: ShardSet, tmp_path: Path, store: Path, command: Command
) -> None:
    other = a_pca(tmp_path / "other", 12, {"name": "resnet50", "weights_sha256": "0" * 64, "dim": 12})
    fails(command(shards.folder, "--pca", other), "--pca", "'resnet50'", "extract/fit_pca.py", code=ExitCode.USAGE)
    narrow = a_pca(tmp_path / "narrow", 7)
    fails(command(shards.folder, "--pca", narrow), "--pca takes 7", "gives 12", code=ExitCode.USAGE)
    noise = tmp_path / "noise"
    noise.write_bytes(b"noise" * 100)
    fails(command(shards.folder, "--pca", noise), str(noise))
    fails(command(shards.folder, "--pca", tmp_path / "gone"), str(tmp_path / "gone"))
    fails(command(shards.folder, "--pca", tmp_path), str(tmp_path))
    good = a_pca(tmp_path / "good", 12)
    whole = good.read_bytes()
    good.write_bytes(whole[:-20])
    fails(command(shards.folder, "--pca", good), str(good))
    assert not store.exists()
    good.write_bytes(whole)
    ran = command(shards.folder, "--pca", good)
    assert ran.code == ExitCode.OK and FeatureStore.open(store).dim == 3
    assert PCA.load(store / "pca.safetensors").dim == 3


def test_weights_that_are_none_are_named(shards: ShardSet, tmp_path: Path, store: Path, command: Command) -> None:
    noise = tmp_path / "noise.pt"
    noise.write_bytes(b"noise" * 100)
    fails(command(shards.folder, weights=noise), str(noise), "TorchScript", code=ExitCode.USAGE)
    fails(command(shards.folder, weights=tmp_path / "gone.pt"), str(tmp_path / "gone.pt"), code=ExitCode.USAGE)
    assert not store.exists()


# --- encoders that fail


def test_an_encoder_that_raises_in_the_middle_ends_the_run_with_its_words(
    shards: ShardSet, tmp_path: Path, store: Path, command: Command
) -> None:
    torch.jit.script(Raising(15, "no such thing")).save(str(tmp_path / "raising.pt"))
    fails(command(shards.folder, weights=tmp_path / "raising.pt"), "raising.pt", "no such thing")
    nothing_half_written(store)
    completes(command(shards.folder, "--rebuild"), store)


def test_what_is_not_finite_rejects_its_videos(tmp_path: Path, store: Path, command: Command) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_quarters(folder / "good.mp4", 1, seconds=2)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        with VideoWriter(folder / f"{name}.mp4", 96, 64, 10, preset="ultrafast") as writer:
            for number in range(10):
                shown = colour if number == 5 else (90, 90, 90)
                writer.write(np.full((64, 96, 3), shown, np.uint8))
    torch.jit.script(NotFinite()).save(str(tmp_path / "not_finite.pt"))
    shards = make_shards(folder, tmp_path / "own")
    ran = command(shards.folder, "--max-reject-share", "1", weights=tmp_path / "not_finite.pt")
    assert ran.code == ExitCode.OK, ran
    found = FeatureStore.open(store)
    assert found.video_ids == ["good"] and [row.video_id for row in found.rejects] == ["blue", "red"]
    assert {row.reason for row in found.rejects} == {"encoder-failed"} and "encoder-failed: 2" in ran.said
    assert all("1 of 2 frames" in row.detail for row in found.rejects)


# --- output folders


def test_settings_of_another_encoder_are_refused_by_name_and_the_store_stays(
    shards: ShardSet, tmp_path: Path, store: Path, command: Command
) -> None:
    completes(command(shards.folder), store, FRAMES)
    before = contents(store)
    torch.jit.script(OtherEncoder()).save(str(tmp_path / "other.pt"))
    fails(
        command(shards.folder, weights=tmp_path / "other.pt"),
        str(store),
        "weights_sha256",
        "--rebuild",
        code=ExitCode.USAGE,
    )
    assert contents(store) == before
    completes(command(shards.folder), store, 0)
    assert contents(store) == before


def test_an_output_that_cannot_be_a_folder_is_named(
    shards: ShardSet, tmp_path: Path, store: Path, command: Command
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    fails(command(shards.folder, output=file), str(file))
    fails(command(shards.folder, output=file / "below"), str(file / "below"))
    fails(command(shards.folder, output=Path("/proc/reelkin")), "/proc/reelkin")
    (tmp_path / "loop").symlink_to("loop")
    fails(command(shards.folder, output=tmp_path / "loop"), str(tmp_path / "loop"))
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "reelkin-features", "version": 99, "encoder": {"name": "x"}}',
        "[1, 2]",
        "{broken",
        '{"encoder": [1], "pca": 3, "sampling": "x", "decoder": null}',
    ],
)
def test_a_store_json_that_is_none_of_ours_is_refused_and_stays(
    text: str, shards: ShardSet, store: Path, command: Command
) -> None:
    store.mkdir()
    (store / "store.json").write_text(text)
    ran = command(shards.folder)
    assert ran.code in (ExitCode.FAILED, ExitCode.USAGE) and "Traceback" not in ran.log
    assert f"error: {store}" in ran.log, ran.log
    assert contents(store) == {"store.json": text.encode()}
    (store / "store.json").unlink()
    completes(command(shards.folder), store, FRAMES)


@pytest.mark.parametrize("text", ["{broken", "[]"])
def test_a_damaged_record_costs_its_block_or_is_named(
    text: str, shards: ShardSet, store: Path, command: Command
) -> None:
    completes(command(shards.folder), store, FRAMES)
    record = store / "features-000001.json"
    before = contents(store)
    record.write_text(text)
    ran = command(shards.folder)
    if ran.code != ExitCode.OK:
        fails(ran, str(record), "remove it")
        record.unlink()
        ran = command(shards.folder)
    completes(ran, store)
    assert contents(store) == before


def test_one_command_at_a_time(shards: ShardSet, store: Path, command: Command) -> None:
    with alone_in(store):
        fails(command(shards.folder), str(store), "another command is at work")
        assert contents(store) == {}
    completes(command(shards.folder), store, FRAMES)


def test_what_killed_runs_left_is_removed_and_what_is_not_ours_stays(
    shards: ShardSet, store: Path, command: Command
) -> None:
    (store / ".claims-0123456789ab").mkdir(parents=True)
    (store / ".claims-0123456789ab/features-000000.safetensors").touch()
    (store / ".claims-0123456789ab/features-000001.safetensors.done").write_text("{}")
    (store / "notes.txt").write_text("mine")
    completes(command(shards.folder), store, FRAMES)
    assert (store / "notes.txt").read_text() == "mine"


# --- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("free", [4096, 12288, 16384, 20480, 28672])
def test_a_full_disk_whenever_it_is_full(free: int, disk: Path, shards: ShardSet, command: Command) -> None:
    """While claiming, or writing a block, a record, an account, the manifest, or store.json."""
    (disk / "fill").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - free))
    output = disk / "store"
    ran = command(shards.folder, output=output)
    fails(ran, str(output), "No space left on device", "run the same command again")
    assert not [path for path in output.rglob("*") if is_partial(path)]
    with pytest.raises(ReelkinError, match="no finished feature store"):
        FeatureStore.open(output)
    (disk / "fill").unlink()
    whole = len(list(output.glob("features-*.json")))
    ran = command(shards.folder, output=output)
    completes(ran, output)
    assert (f"{whole} of 3 blocks are already extracted" in ran.log) == (whole > 0)


def test_a_disk_that_is_read_only(disk: Path, shards: ShardSet, command: Command) -> None:
    output = disk / "store"
    output.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    fails(command(shards.folder, output=output), str(output), "Read-only file system")
    fails(command(shards.folder, output=disk / "new"), str(disk / "new"), "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    completes(command(shards.folder, output=output), output, FRAMES)


def test_a_whole_store_on_a_read_only_disk_says_so(disk: Path, shards: ShardSet, command: Command) -> None:
    output = disk / "store"
    completes(command(shards.folder, output=output), output, FRAMES)
    before = contents(output)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    fails(command(shards.folder, output=output), str(output), "Read-only file system")
    assert json.loads((output / "store.json").read_text()) and contents(output) == before
    assert len(FeatureStore.open(output)) == len(NAMES)
