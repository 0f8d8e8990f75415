"""webdataset and DALI read our shards: the same samples, in the same order, with the same bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import webdataset

from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import Clip, ShardSet
from reelkin.tests.helpers import dali_reads, videos
from reelkin.tests.helpers.dali_there import need_dali

CONTAINERS = ["mp4", "webm", "mkv", "gif"]
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}
VP8 = {"codec": "libvpx", "options": {"deadline": "realtime"}}
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
# DALI's CPU decoder takes these three codecs.
DECODABLE: dict[str, dict[str, Any]] = {
    "vp9.webm": VP9,
    "vp9.mkv": VP9 | {"seconds": 1.3},
    "vp9.mp4": VP9 | {"fps": 25},
    "vp9_irregular.webm": VP9 | {"times": [0, 0.1, 0.15, 0.7, 1.9]},
    "vp8.webm": VP8 | {"size": (98, 66)},
    "mjpeg.mkv": MJPEG,
    "mjpeg.mp4": MJPEG | {"seconds": 0.7},
}
OTHERS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {"pattern": "noise"},
    "picture.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "one.mp4": {"seconds": 0.1},
}


def shards_of(files: dict[str, dict[str, Any]], folder: Path) -> ShardSet:
    (folder / "videos").mkdir()
    for name, settings in files.items():
        videos.make_video(folder / "videos" / name, **settings)
    build(BuildConfig(videos=(folder / "videos",), output=folder / "shards", shard_videos=4, workers=2))
    return ShardSet.open(folder / "shards")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return shards_of(DECODABLE | OTHERS, tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def decodable(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return shards_of(DECODABLE, tmp_path_factory.mktemp("decodable"))


@pytest.fixture
def dali() -> None:
    need_dali()


def paths(shards: ShardSet) -> list[str]:
    return [str(shards.folder / name) for name in shards.shard_names]


def ours(shards: ShardSet) -> list[Clip]:
    return [clip for name in shards.shard_names for clip in shards.read_clips(name)]


def as_sample(clip: Clip) -> dict[str, str]:
    sha256 = hashlib.sha256(clip.data).hexdigest()
    return {"name": f"{clip.key}.{clip.container}", "sha256": sha256, "json": json.dumps(clip.meta)}


def read_with_dali(shards: ShardSet, folder: Path, *, indices: list[str], decode: bool = False) -> list[dict[str, Any]]:
    output = folder / "samples.json"
    wanted = {"tars": paths(shards), "indices": indices, "containers": CONTAINERS, "decode": decode}
    words = [sys.executable, "-P", dali_reads.__file__, json.dumps({**wanted, "output": str(output)})]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(output.read_text()))


def test_the_set_is_a_fair_trial(mixed: ShardSet) -> None:
    clips = ours(mixed)
    assert len(mixed.shard_names) == 3 and len(clips) == len(DECODABLE | OTHERS)
    assert {clip.container for clip in clips} == set(CONTAINERS)


def test_webdataset_reads_the_same_samples(mixed: ShardSet) -> None:
    samples = list(webdataset.WebDataset(paths(mixed), shardshuffle=False))  # no decoding: no pickle is loaded
    found = [
        {
            "name": f"{sample['__key__']}.{container}",
            "sha256": hashlib.sha256(sample[container]).hexdigest(),
            "json": sample["json"].decode(),
        }
        for sample in samples
        for container in sample
        if container in CONTAINERS
    ]
    assert found == [as_sample(clip) for clip in ours(mixed)]


@pytest.mark.usefixtures("dali")
@pytest.mark.parametrize("indexed", [False, True], ids=["without an index", "with an index"])
def test_dali_reads_the_same_samples(mixed: ShardSet, tmp_path: Path, indexed: bool) -> None:
    indices = []
    for path in paths(mixed) if indexed else []:
        indices.append(str(tmp_path / f"{Path(path).name}.idx"))
        code = "import sys, wds2idx\nwith wds2idx.IndexCreator(*sys.argv[1:], verbose=False) as c: c.create_index()"
        subprocess.run([sys.executable, "-c", code, path, indices[-1]], check=True, timeout=60, capture_output=True)
        assert Path(indices[-1]).stat().st_size > 0
    assert read_with_dali(mixed, tmp_path, indices=indices) == [as_sample(clip) for clip in ours(mixed)]


@pytest.mark.usefixtures("dali")
def test_dali_decodes_as_many_pictures_as_pyav(decodable: ShardSet, tmp_path: Path) -> None:
    samples = read_with_dali(decodable, tmp_path, indices=[], decode=True)
    clips = ours(decodable)
    assert [sample["name"] for sample in samples] == [as_sample(clip)["name"] for clip in clips]
    for sample, clip in zip(samples, clips, strict=True):
        file = tmp_path / sample["name"]
        file.write_bytes(clip.data)
        pictures = videos.decode_all(file)
        assert sample["shape"] == [len(pictures), pictures[0].height, pictures[0].width, 3], clip.video_id
        assert len(pictures) == clip.meta["num_frames"]
