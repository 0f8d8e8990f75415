"""The commands: what they print, how they end, and that two ranks write what one writes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.errors import ExitCode
from reelkin.extract import fit_pca, reduce, run
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.pca import PCA
from reelkin.extract.queries import extract_videos
from reelkin.extract.store import FeatureStore
from reelkin.shards.reader import ShardSet
from reelkin.tests.extract.conftest import NAMES, make_shards

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
REAL_ENCODER = ROOT.parent / "shared/weights/mobilenet_v2_imagenet_imac.torchscript.pt"
REAL_VIDEOS = ROOT.parent / "shared/videos"


def tiny_flags(shards: ShardSet, tiny_file: Path) -> list[str]:
    return [
        *("--shards", str(shards.folder), "--encoder", "torchscript", "--weights", str(tiny_file)),
        *("--size", "48", "--crop", "40", "--fps", "2"),
    ]


def test_without_arguments_they_say_what_is_missing_and_show_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    for script in (run, fit_pca):
        with pytest.raises(SystemExit) as stop:
            script.main([])
        assert stop.value.code == ExitCode.USAGE
        told = capfd.readouterr().err
        assert "--output" in told and script.EXAMPLE in told


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--encoder", "resnet50"], "give one of them: --shards FOLDER or --videos FOLDER"),
        (["--shards", "x"], "name one with --encoder; resnet50: "),
        (["--shards", "x", "--encoder", "vgg"], "'vgg' is unknown; choose from resnet50"),
        (["--shards", "x", "--encoder", "torchscript"], "needs --weights FILE"),
        (["--shards", "x", "--encoder", "resnet50", "--components", "8"], "together with --videos"),
        (["--shards", "x", "--encoder", "resnet50", "--limit", "0"], "limit: 0 is below 1"),
        (["--shards", "store/", "--encoder", "resnet50"], "output: must be another folder than --shards"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run.main([*flags, "--output", "store"])
    assert stop.value.code == ExitCode.USAGE
    assert words in " ".join(capfd.readouterr().err.split())  # long messages are broken into lines


def test_help_lists_the_encoders_with_their_dimensions(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run.main(["--help"])
    assert stop.value.code == ExitCode.OK
    told = " ".join(capfd.readouterr().out.replace("│", " ").split())
    assert "resnet50: torchvision ResNet-50" in told and "D = 3840" in told and "torchscript: any TorchScript" in told


def test_a_run_ends_with_counts_and_rejects_over_the_budget_with_3(
    shards: ShardSet, tiny_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*tiny_flags(shards, tiny_file), "--output", str(tmp_path / "store")]
    assert run.main([*flags, "--dry_run"]) == ExitCode.OK
    told = capfd.readouterr().out
    assert "5 videos in 3 blocks" in told and "about 40 frames (times)" in told and "time: about" in told
    assert not (tmp_path / "store").exists()
    assert run.main(flags) == ExitCode.OK
    told = capfd.readouterr().out
    assert "5 videos, 40 frames of 12 dimensions; 1 rejected" in told and "rejected, not-a-video: 1" in told
    assert run.main([*flags, "--max-reject-share", "0.1"]) == ExitCode.REJECTS
    told = capfd.readouterr().out
    assert "17% rejected, over --max-reject-share 10%" in told
    assert run.main([*flags, "--fps", "1"]) == ExitCode.USAGE
    assert "pass --rebuild" in capfd.readouterr().err


def test_one_command_goes_from_raw_videos_to_pca_features(
    video_folder: Path,
    tiny_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gives what shards, extraction, PCA and its application give one by one; a second run does nothing anew."""
    encoder = ["--encoder", "torchscript", "--weights", str(tiny_file), "--size", "48", "--crop", "40", "--fps", "2"]
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "store")
    flags = ["--videos", str(video_folder), *encoder, "--components", "4", "--output", "."]
    assert run.main(flags) == ExitCode.OK
    assert "5 videos, 40 frames of 4 dimensions; 1 rejected" in capfd.readouterr().out
    shards = make_shards(video_folder, tmp_path / "shards")
    steps = ["--shards", str(shards.folder), *encoder, "--output", str(tmp_path / "frames")]
    assert run.main(steps) == ExitCode.OK
    pca = tmp_path / "pca.safetensors"
    fit = ["--features", str(tmp_path / "frames"), "--components", "4", "--output", str(pca)]
    assert fit_pca.main(fit) == ExitCode.OK
    store = FeatureStore.open(tmp_path / "store")
    for name in NAMES:
        expected = PCA.load(pca).apply(FeatureStore.open(tmp_path / "frames").features(name).astype(np.float32))
        np.testing.assert_allclose(store.features(name), expected, atol=2e-3)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "store.work").rglob("*.safe*"))
    capfd.readouterr()
    assert run.main(flags) == ExitCode.OK
    assert "encoded now: 0 frames" in capfd.readouterr().out
    after = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "store.work").rglob("*.safe*"))
    assert after == before and before[-1][0] == "pca.safetensors"


def test_raw_videos_that_have_come_since_are_taken_in_and_a_rebuild_replaces_all(
    video_folder: Path, tiny_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some videos"
    folder.mkdir()
    shutil.copy(video_folder / "a.mp4", folder)
    encoder = ["--encoder", "torchscript", "--weights", str(tiny_file), "--size", "48", "--crop", "40", "--fps", "2"]
    flags = ["--videos", str(folder), *encoder, "--output", str(tmp_path / "store")]
    assert run.main(flags) == ExitCode.OK
    shutil.copy(video_folder / "b.mp4", folder)
    capfd.readouterr()
    assert run.main(flags) == ExitCode.OK
    told = capfd.readouterr().out
    assert "2 videos, 10 frames" in told and "encoded now: 6 frames" in told
    (folder / "a.mp4").unlink()
    assert run.main([*flags, "--rebuild"]) == ExitCode.OK
    assert "1 videos, 6 frames" in capfd.readouterr().out


def test_random_weights_are_named_in_the_last_lines_and_the_store(
    shards: ShardSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    flags = ["--shards", str(shards.folder), "--encoder", "resnet50", "--weights", "random", "--size", "32"]
    assert run.main([*flags, "--output", str(tmp_path / "store"), "--limit", "1"]) == ExitCode.OK
    said = capfd.readouterr()
    assert "RANDOM WEIGHTS" in said.err and "weights random (RANDOM: nothing was learnt)" in said.out
    store = FeatureStore.open(tmp_path / "store")
    assert store.info["encoder"]["random_weights"] is True and store.dim == 3840


SLEEPY = """
import sys
from reelkin.extract import run
from reelkin.extract.decoding import pool
pool.PYAV_CHILD = "reelkin.tests.extract.workers.sleepy_child"
sys.exit(run.main(sys.argv[1:]))
"""


def test_a_run_that_is_asked_to_end_says_so_and_the_same_command_goes_on(
    shards: ShardSet, tiny_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    flags = [*tiny_flags(shards, tiny_file), "--output", str(store), "--decode-workers", "1"]
    process = subprocess.Popen([sys.executable, "-c", SLEEPY, *flags], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(store.glob("features-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, told = process.communicate(timeout=30)
    assert process.returncode == ExitCode.STOPPED, told
    assert 1 <= len(list(store.glob("features-*.json"))) < 3 and not (store / "store.json").exists()
    assert run.main(flags) == ExitCode.OK
    assert len(FeatureStore.open(store)) == 5
    assert "are already extracted" in capfd.readouterr().err


def launch(launcher: list[str], *arguments: str, seconds: float = 240) -> None:
    """Run a command with this interpreter's launchers first on PATH; kill its whole group on timeout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HOROVOD", "RANK", "WORLD"))}
    environment.update(PATH=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}", OMP_NUM_THREADS="1")
    process = subprocess.Popen(
        [*launcher, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun --standalone --nproc-per-node 2", "horovodrun -np 2 --gloo"])
def test_two_ranks_write_the_store_of_one(
    launcher: str, shards: ShardSet, tiny_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = launcher.split()
    if words[0] == "horovodrun":
        pytest.importorskip("horovod")
        words.append(sys.executable)
    flags = tiny_flags(shards, tiny_file)
    assert run.main([*flags, "--output", str(tmp_path / "one")]) == ExitCode.OK
    launch(words, "extract/run.py", *flags, "--output", str(tmp_path / "two"))
    one, two = FeatureStore.open(tmp_path / "one"), FeatureStore.open(tmp_path / "two")
    assert two.video_ids == one.video_ids == list(NAMES) and two.rejects == one.rejects
    for name in NAMES:
        np.testing.assert_allclose(two.features(name), one.features(name), atol=1e-3)
        np.testing.assert_array_equal(two.times(name), one.times(name))

    fit = ["--components", "4", "--frames-per-video", "5"]
    assert fit_pca.main([*flags, *fit, "--output", str(tmp_path / "one.safetensors")]) == ExitCode.OK
    launch(words, "extract/fit_pca.py", *flags, *fit, "--output", str(tmp_path / "two.safetensors"))
    pca_one, pca_two = (PCA.load(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert pca_two.info == pca_one.info
    torch.testing.assert_close(pca_two.components, pca_one.components, atol=1e-5, rtol=0)

    less = ["--features", str(tmp_path / "one"), "--pca", str(tmp_path / "one.safetensors")]
    assert reduce.main([*less, "--output", str(tmp_path / "less_one")]) == ExitCode.OK
    launch(words, "extract/reduce.py", *less, "--output", str(tmp_path / "less_two"))
    assert FeatureStore.open(tmp_path / "less_two").info == FeatureStore.open(tmp_path / "less_one").info


@pytest.mark.skipif(not REAL_ENCODER.exists(), reason="the real encoder and videos are not part of the repository")
def test_a_real_video_looks_like_its_re_encoding_and_not_like_another() -> None:
    torch.set_num_threads(1)
    encoder = build_encoder(EncoderSpec("torchscript", str(REAL_ENCODER), 128, 96))
    files = {name: REAL_VIDEOS / f"mdn_{name}" for name in ("flower.mp4", "flower.webm", "friday.mp4")}
    found = extract_videos(files, Describer(encoder)).videos
    assert all(list(times) == list(range(len(times))) for _, times in found.values())
    means = {name: features.astype(np.float32).mean(axis=0) for name, (features, _) in found.items()}
    unit = {name: mean / np.linalg.norm(mean) for name, mean in means.items()}
    assert unit["flower.mp4"] @ unit["flower.webm"] > 0.99
    assert unit["flower.mp4"] @ unit["friday.mp4"] < 0.9
