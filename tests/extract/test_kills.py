"""Extractions that are killed at any moment, whole or in part, go on to the same bytes, and nothing half written stands
there meanwhile.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from reelkin.extract.store import FeatureStore
from reelkin.tests.extract.conftest import make_shards, write_quarters
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.dali_there import need_dali
from reelkin.tests.helpers.kills import (
    BIN,
    DIM,
    Work,
    a_rank,
    blocks,
    check_what_stands_there,
    claimed,
    everything,
    finish,
    kill,
    kill_and_finish,
    make_work,
    one,
)
from reelkin.tests.helpers.runs import contents

PYAV, DALI = "reelkin.extract.decoding.pyav_child", "reelkin.extract.decoding.dali_child"
HOROVOD = (str(BIN / "horovodrun"), "-np", "2", "--gloo")
VIDEOS = 12


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that rounds, as real ones do: its bits depend on what shares a batch."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, DIM, 3), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = tmp_path_factory.mktemp("network") / "convolutional.pt"
    torch.jit.script(network).save(str(path))
    return path


@pytest.fixture(scope="module")
def work(convolutional: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Small shards, among them videos that break in the middle, and inputs that are none."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(VIDEOS):
        write_quarters(folder / f"{number:02d}.mp4", number, seconds=3)
    noise = videos.make_video(folder.with_name("noise.mp4"), seconds=4, pattern="noise")
    for number in range(3):
        videos.make_damaged(folder / f"damaged{number}.mp4", noise, seed=number)
    videos.make_text(folder / "text.mp4")
    shards = make_shards(folder, tmp_path_factory.mktemp("shards") / "one", shard_videos=1)
    expected = tmp_path_factory.mktemp("expected") / "store"
    made = make_work(expected, shards.folder, convolutional, "pyav")
    store = FeatureStore.open(expected)
    assert len(store) == VIDEOS and len(store.rejects) == 4 and len(store.info["blocks"]) == VIDEOS + 3
    return made


def test_a_run_that_is_killed_twice_goes_on_to_the_same_bytes(work: Work, tmp_path: Path) -> None:
    assert len(kill_and_finish(work, tmp_path / "out", 0, 2, everything)) >= 1


@pytest.mark.slow
def test_a_whole_run_is_killed_again_and_again(work: Work, tmp_path: Path) -> None:
    found = [kill_and_finish(work, tmp_path / f"out{seed}", seed, 3, everything) for seed in range(3)]
    deaths = [count for counts in found for count in counts]
    assert len(deaths) >= 5 and len(set(deaths)) >= 3  # at different moments
    assert any(count == VIDEOS + 3 for count in deaths)  # all blocks were there, the store was not


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_rank_of_two_is_killed(seed: int, work: Work, tmp_path: Path) -> None:
    """The launcher ends the job. What two ranks write is what one writes."""
    pytest.importorskip("horovod")
    kill_and_finish(work, tmp_path / "out", seed, 2, a_rank, *HOROVOD)


@pytest.mark.slow
def test_launcher_and_ranks_are_killed_together(work: Work, tmp_path: Path) -> None:
    pytest.importorskip("horovod")
    assert kill_and_finish(work, tmp_path / "out", 3, 2, everything, *HOROVOD)  # the second may come too late


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_decoding_children_are_killed(seed: int, work: Work, tmp_path: Path) -> None:
    """The run goes on, whenever they are killed, and leaves nothing to the next one."""
    out = tmp_path / "out"
    command = work.command(out)
    assert kill(command, out, (claimed, blocks(2), blocks(5))[seed], random.Random(seed), one(PYAV), deaths=2) == 0
    assert check_what_stands_there(out)
    assert "encoded now: 0 frames" in finish(command)
    assert contents(out) == work.expected


@pytest.mark.slow
def test_the_dali_process_is_killed(convolutional: Path, tmp_path: Path) -> None:
    need_dali()
    (tmp_path / "videos").mkdir()
    for number in range(8):
        name, codec = (("a.webm", "libvpx-vp9"), ("b.webm", "libvpx"), ("c.mp4", "libx264"))[number % 3]
        videos.make_video(tmp_path / f"videos/{number}{name}", seconds=3, codec=codec, seed=number, pattern="noise")
    shards = make_shards(tmp_path / "videos", tmp_path / "shards", shard_videos=1)
    work = make_work(tmp_path / "expected", shards.folder, convolutional, "dali")
    store = FeatureStore.open(tmp_path / "expected")
    assert {store.row(name).decoder for name in store.video_ids} == {"dali", "pyav"}
    for seed, stage in enumerate((claimed, blocks(1), blocks(3))):
        out = tmp_path / f"out{seed}"
        command = work.command(out)
        assert kill(command, out, stage, random.Random(seed), one(DALI), deaths=2) == 0
        assert check_what_stands_there(out)
        assert "encoded now: 0 frames" in finish(command)
        assert contents(out) == work.expected
