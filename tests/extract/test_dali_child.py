"""The child that decodes with DALI: what comes through the shared memory, and that a bad clip harms no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.extract.decoding.batching import BUDGETS, Budget
from reelkin.extract.decoding.dali_request import ClipRequest
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.decoding.worker import Worker
from reelkin.shards.video.decode import iter_frames
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling, choose
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.dali_there import need_dali

CHILD = "reelkin.extract.decoding.dali_child"
GEOMETRY = Geometry(48, 32)
ALL = Sampling("all")


def start(budget: Budget = BUDGETS["cpu"], arena_bytes: int = 1 << 20, **changes: Any) -> Worker:
    settings = {"device": "cpu", "device_id": 0, "threads": 1, "budget": asdict(budget), **changes}
    worker = Worker(CHILD, settings, arena_bytes)
    message = worker.receive()
    worker.ready = message is not None and message.get("ready") is True
    if not worker.ready:
        worker.why_gone()
        worker.check_start()
    return worker


@pytest.fixture(scope="module")
def child() -> Iterator[Worker]:
    need_dali()
    worker = start()
    yield worker
    worker.close()


def request(path: Path, sampling: Sampling = ALL, geometry: Geometry = GEOMETRY, **changes: Any) -> ClipRequest:
    plan = make_plan(path)
    made = ClipRequest.of(path, 0, None, plan, choose(plan, sampling), geometry)
    return dataclasses.replace(made, **changes)


@dataclasses.dataclass
class Answer:
    frames: np.ndarray
    times: list[float]
    whole: bool
    failed: str


def ask(worker: Worker, requests: Sequence[ClipRequest]) -> list[Answer]:
    """What a child answers to one request, per clip."""
    worker.send({"number": 7, "seconds": 60, "samples": [made.as_dict() for made in requests]})
    frames: list[list[np.ndarray]] = [[] for _ in requests]
    times: list[list[float]] = [[] for _ in requests]
    whole, failed = [0] * len(requests), [""] * len(requests)
    while True:
        message = worker.receive()
        assert message is not None, worker.errors()
        assert message["number"] == 7 and "fault" not in message, message
        if "chunk" in message:
            chunk = message["chunk"]
            assert not whole[chunk["sample"]]
            frames[chunk["sample"]].append(worker.pictures(chunk).copy())
            times[chunk["sample"]] += chunk["times"]
            worker.arena.give_back()
        elif "whole" in message:
            whole[message["sample"]] += 1
        elif "failed" in message:
            assert not failed[message["sample"]]
            failed[message["sample"]] = message["failed"]
        else:
            assert message == {"end": True, "number": 7}
            break
    assert all(count + bool(why) == 1 for count, why in zip(whole, failed, strict=True))
    joined = [np.concatenate(parts) if parts else np.zeros((0, 1, 1, 3), np.uint8) for parts in frames]
    return [Answer(*values) for values in zip(joined, times, map(bool, whole), failed, strict=True)]


def by_pyav(path: Path, sampling: Sampling, geometry: Geometry) -> tuple[np.ndarray, list[float]]:
    plan = make_plan(path)
    samples = choose(plan, sampling)
    frames = iter_frames(path, plan=plan, samples=samples, short_side=geometry.short_side)
    return np.stack([geometry.cut(frame.picture) for frame in frames]), samples.times.tolist()


def made(folder: Path, name: str, **settings: Any) -> Path:
    settings = {"codec": "libvpx-vp9", "seconds": 2, "options": {"deadline": "realtime"}, **settings}
    return videos.make_video(folder / name, **settings)


@pytest.mark.parametrize("mode", [Sampling(fps=3), Sampling("keyframes", fps=5), ALL, Sampling("tca-legacy")])
def test_pictures_and_times_are_those_of_pyav(mode: Sampling, tmp_path: Path, child: Worker) -> None:
    settings: dict[str, dict[str, Any]] = {
        "a.webm": {"gop": 5},
        "b.mkv": {"times": [0, 0.1, 0.15, 0.9, 1.7, 3.2]},
        "c.webm": {"codec": "libvpx", "size": (129, 73)},
        "d.mp4": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": None},
        "one.webm": {"seconds": 0.1},
    }
    geometry = Geometry(64, 0)
    paths = [made(tmp_path, name, **each) for name, each in settings.items()]
    answers = ask(child, [request(path, mode, geometry) for path in paths])
    for path, answer in zip(paths, answers, strict=True):
        frames, times = by_pyav(path, mode, geometry)
        assert answer.whole and answer.frames.shape == frames.shape and answer.times == times
        assert [*map(videos.read_counter, answer.frames)] == [*map(videos.read_counter, frames)]
        assert np.abs(answer.frames.astype(int) - frames).mean() < 3  # hard edges, two ways of scaling


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (0, 1, 1, 0)])
@pytest.mark.parametrize("geometry", [Geometry(64, 0), Geometry(64, 40)])
def test_pictures_are_turned_and_cropped_as_by_pyav(
    matrix: tuple[int, int, int, int], geometry: Geometry, tmp_path: Path, child: Worker
) -> None:
    path = made(tmp_path, "a.mp4", size=(160, 90), pattern="corners", seconds=0.5)
    videos.set_display_matrix(path, *matrix)
    (answer,) = ask(child, [request(path, geometry=geometry)])
    frames, _ = by_pyav(path, ALL, geometry)
    assert answer.frames.shape == frames.shape
    assert np.abs(answer.frames.astype(int) - frames).mean() < 3
    assert np.abs(answer.frames.astype(int) - frames[:, :, ::-1]).mean() > 20


def test_good_clips_are_unharmed_by_bad_neighbours(tmp_path: Path, child: Worker) -> None:
    good = [made(tmp_path, f"{number}.webm", gop=4 + number, pattern="noise") for number in range(5)]
    alone = [ask(child, [request(path)])[0].frames for path in good]
    wide = tmp_path / "wide.webm"
    bad = {
        "flipped": videos.make_damaged(tmp_path / "flipped.webm", good[0], start=0.1, count=2000),
        "cut": videos.make_truncated(tmp_path / "cut.webm", good[1]),
        "text": videos.make_text(tmp_path / "text.webm"),
        "empty": videos.make_empty(tmp_path / "empty.webm"),
        "gone": tmp_path / "gone.webm",
        "h264": videos.make_video(tmp_path / "h264.mp4", seconds=2),
        "other size": made(tmp_path, wide.name, size=(128, 64)),
    }
    asked = request(good[0])
    requests = [dataclasses.replace(asked, path=path) for path in bad.values()]
    mixed = [item for pair in zip(requests, [*map(request, good), *map(request, good)], strict=False) for item in pair]
    answers = ask(child, mixed)
    for name, answer in zip(bad, answers[::2], strict=True):
        assert answer.failed and not answer.whole, name
    for number, answer in enumerate(answers[1::2]):
        assert answer.whole
        np.testing.assert_array_equal(answer.frames, alone[number % 5])
    why = dict(zip(bad, [answer.failed for answer in answers[::2]], strict=True))
    assert "h264" in why["h264"] and "not supported" in why["h264"]  # from DALI's standard error
    assert "cannot be read (No such file" in why["gone"]
    assert "128x64 were" in why["other size"] or "of 128x64 came" in why["other size"]


def test_a_clip_over_the_budget_comes_whole(tmp_path: Path) -> None:
    need_dali()
    paths = [made(tmp_path, name, seconds=3) for name in ("a.webm", "b.webm")]
    expected = [[*range(30)]] * 2
    requests = [request(path, geometry=Geometry(64, 0)) for path in paths]
    pictures = sum(request.need(0).picture_bytes for request in requests)
    for budget in (Budget(9 * pictures, 10**6, 8), Budget(10**9, 8, 2)):
        worker = start(budget)
        try:
            answers = ask(worker, requests)
        finally:
            worker.close()
        assert [[*map(videos.read_counter, answer.frames)] for answer in answers] == expected
        assert [answer.times for answer in answers] == [make_plan(path).probe.pts_seconds.tolist() for path in paths]


def test_a_clip_far_over_the_budget_is_left_to_pyav_where_dali_does_not_seek(tmp_path: Path) -> None:
    need_dali()
    path = made(tmp_path, "a.webm", seconds=3)
    few = choose(make_plan(path), Sampling(fps=2))
    whole = request(path)
    worker = start(Budget(10**9, 7, 8))
    try:
        much, little = ask(worker, [whole, dataclasses.replace(whole, indices=few.indices, times=few.times)])
    finally:
        worker.close()
    assert much.failed == "its 30 pictures do not fit into memory together" and not len(much.frames)
    assert little.whole and len(little.frames) == 6


def test_a_file_too_large_for_dali_is_not_read(tmp_path: Path, child: Worker) -> None:
    path = made(tmp_path, "a.webm")
    asked = request(path)
    with open(path, "ab") as file:
        file.truncate((1 << 30) + 1)  # sparse
    (answer,) = ask(child, [asked])
    assert answer.failed == f"a file of {(1 << 30) + 1} bytes is too large for it"


def test_members_of_a_tar_are_read_where_they_lie(tmp_path: Path, child: Worker) -> None:
    data = made(tmp_path, "a.webm").read_bytes()
    tar = tmp_path / "clips 0.tar"
    tar.write_bytes(b"x" * 512 + data + b"y" * 512)
    asked = dataclasses.replace(
        request(tmp_path / "a.webm", geometry=Geometry(64)), path=tar, offset=512, bytes=len(data)
    )
    good, beyond = ask(child, [asked, dataclasses.replace(asked, bytes=len(data) + 600)])
    assert [*map(videos.read_counter, good.frames)] == list(range(20))
    assert "of" in beyond.failed and "bytes at 512" in beyond.failed


def test_pictures_that_fill_the_memory_several_times_wait_for_room(tmp_path: Path) -> None:
    need_dali()
    path = made(tmp_path, "a.webm", seconds=4)
    worker = start(arena_bytes=5 * 64 * 96 * 3)
    try:
        (answer,) = ask(worker, [request(path, geometry=Geometry(64, 0))])
    finally:
        worker.close()
    assert [*map(videos.read_counter, answer.frames)] == list(range(40))


def test_a_clip_without_samples_is_whole_at_once(tmp_path: Path, child: Worker) -> None:
    path = made(tmp_path, "a.webm")
    none = dataclasses.replace(request(path), indices=np.zeros(0, np.int64), times=np.zeros(0))
    child.send({"number": 3, "seconds": 60, "samples": [made.as_dict() for made in (request(path), none)]})
    messages = [child.receive() or {}]
    while "end" not in messages[-1]:
        messages.append(child.receive() or {})
        if "chunk" in messages[-1]:
            child.arena.give_back()
    assert messages[0] == {"sample": 1, "whole": True, "number": 3}  # before room is needed for another clip
    assert messages[-2] == {"sample": 0, "whole": True, "number": 3}
    assert ask(child, []) == []


def test_a_gpu_that_is_not_there_is_said_at_the_start() -> None:
    need_dali()
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ReelkinError, match="DALI cannot use GPU 0"):
        start(device="gpu")
