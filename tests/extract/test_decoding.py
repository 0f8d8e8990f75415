"""Decoding ahead: what comes out is what each clip alone gives, whatever happens to the children and the neighbours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkin.core.errors import ReelkinError
from reelkin.core.files import sha256_bytes
from reelkin.extract.decoding import pool as pool_module
from reelkin.extract.decoding.arena import Arena, Ring
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.decoding.pool import DecodePool, PoolSettings
from reelkin.extract.decoding.tasks import Chunk, End, Source
from reelkin.shards.video.decode import decode_frames
from reelkin.shards.video.sampling import Sampling
from reelkin.tests.helpers import videos

SETTINGS = PoolSettings(Sampling(fps=5.0), Geometry(48, 40), arena_bytes=1 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of different lengths and shapes; treat as read-only."""
    made = tmp_path_factory.mktemp("clips")
    for number in range(5):
        videos.make_video(made / f"{number}.mp4", seconds=1 + number, size=(96 - 8 * number, 64), pattern="noise")
    return made


def decoded_alone(path: Path, fps: float = 5.0) -> np.ndarray:
    """uint8 [T, 40, 40, 3], without a pool."""
    frames = decode_frames(path, fps=fps, short_side=48).frames
    top, left = (frames.shape[1] - 40) // 2, (frames.shape[2] - 40) // 2
    return frames[:, top : top + 40, left : left + 40]


def all_of(pool: DecodePool, sources: Iterable[Source]) -> dict[str, tuple[np.ndarray, np.ndarray, End]]:
    """{key: (pictures, times, end)}, in the order in which they came."""
    found: dict[str, tuple[np.ndarray, np.ndarray, End]] = {}
    frames: list[np.ndarray] = []
    times: list[np.ndarray] = []
    for source, item in pool.decode(sources):
        if isinstance(item, Chunk):
            frames.append(item.frames.copy())
            times.append(item.times)
        elif isinstance(item, End):
            pictures = np.concatenate(frames) if frames else np.zeros((0, 40, 40, 3), np.uint8)
            found[source.key] = pictures, np.concatenate([np.zeros(0), *times]), item
            frames, times = [], []
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_clips_come_in_order_with_the_pictures_that_each_alone_gives(folder: Path, workers: int) -> None:
    paths = sorted(folder.glob("*.mp4")) * 2
    with DecodePool(replace(SETTINGS, workers=workers)) as pool:
        found = all_of(pool, (Source(str(number), path) for number, path in enumerate(paths)))
    assert list(found) == [str(number) for number in range(10)]
    for number, path in enumerate(paths):
        pictures, times, end = found[str(number)]
        np.testing.assert_array_equal(pictures, decoded_alone(path))
        np.testing.assert_allclose(times, np.arange(len(pictures)) / 5)
        assert end == End("pyav")


def test_a_part_of_a_file_is_a_clip_and_another_hash_ends_the_run(folder: Path, tmp_path: Path) -> None:
    data = (folder / "1.mp4").read_bytes()
    (tmp_path / "tar").write_bytes(b"x" * 1000 + data + b"y" * 1000)
    good = Source("a", tmp_path / "tar", 1000, len(data), sha256_bytes(data))
    with DecodePool(SETTINGS) as pool:
        np.testing.assert_array_equal(all_of(pool, [good])["a"][0], decoded_alone(folder / "1.mp4"))
        for bad in (replace(good, offset=999), replace(good, sha256="0" * 64), replace(good, bytes=len(data) + 5000)):
            with pytest.raises(ReelkinError, match=r"is not as it was written.*shards/verify\.py"):
                all_of(pool, [bad])
        assert len(all_of(pool, [good])) == 1  # the pool outlives a run that failed


def test_a_child_that_is_ahead_waits_for_room_and_loses_nothing(folder: Path) -> None:
    room_for_four = replace(SETTINGS, arena_bytes=1, workers=2)
    with DecodePool(room_for_four) as pool:
        found = all_of(pool, [Source(path.name, path) for path in sorted(folder.glob("*.mp4"))])
    for name, (pictures, _, _) in found.items():
        np.testing.assert_array_equal(pictures, decoded_alone(folder / name))


def test_damage_ends_its_clip_only(folder: Path, tmp_path: Path) -> None:
    good = videos.make_video(tmp_path / "noise.mp4", seconds=4, pattern="noise")
    videos.make_damaged(tmp_path / "damaged.mp4", good)
    (tmp_path / "empty.mp4").touch()
    names = [
        folder / "0.mp4",
        tmp_path / "damaged.mp4",
        tmp_path / "empty.mp4",
        tmp_path / "gone.mp4",
        folder / "1.mp4",
    ]
    with DecodePool(SETTINGS) as pool:
        found = all_of(pool, [Source(path.name, path) for path in names])
    reasons = [end.error and str(end.error.reason) for _, _, end in found.values()]
    assert reasons == [None, "damaged", "empty-file", "missing", None]
    np.testing.assert_array_equal(found["1.mp4"][0], decoded_alone(folder / "1.mp4"))


@pytest.fixture
def fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PYAV_CHILD", "reelkin.tests.extract.workers.fatal_child")


@pytest.mark.parametrize(
    ("name", "reason", "words", "replaced"),
    [
        ("crash.mp4", "decoder-died", "SIGSEGV", 3),
        ("hang.mp4", "timeout", "longer than the limit", 1),
        ("greedy.mp4", "decoder-died", "more memory than the limit", 0),
        ("babble.mp4", "decoder-died", "senseless", 3),
        ("beyond.mp4", "decoder-died", "senseless", 3),
        ("fault.mp4", "decoder-died", "a mistake of ours", 0),
    ],
)
def test_what_a_clip_does_to_its_child_costs_that_clip_alone(
    fatal: None, folder: Path, tmp_path: Path, name: str, reason: str, words: str, replaced: int
) -> None:
    shutil.copy(folder / "0.mp4", tmp_path / name)
    paths = [folder / "0.mp4", tmp_path / name, folder / "1.mp4", folder / "2.mp4"]
    with DecodePool(SETTINGS) as pool:
        found = all_of(pool, [Source(path.name, path) for path in paths])
        assert pool.replaced == replaced
    assert [end.error and str(end.error.reason) for _, _, end in found.values()] == [None, reason, None, None]
    assert words in str(found[name][2].error)
    for path in (paths[0], paths[2], paths[3]):
        np.testing.assert_array_equal(found[path.name][0], decoded_alone(path))


def test_a_killed_child_is_replaced_and_its_clip_goes_on_where_it_stood(
    fatal: None, folder: Path, tmp_path: Path
) -> None:
    """It dies after its last picture: the pictures come once."""
    shutil.copy(folder / "4.mp4", tmp_path / "once.mp4")
    with DecodePool(SETTINGS) as pool:
        found = all_of(pool, [Source("a", tmp_path / "once.mp4"), Source("b", folder / "1.mp4")])
        assert pool.replaced == 1
    np.testing.assert_array_equal(found["a"][0], decoded_alone(folder / "4.mp4"))
    np.testing.assert_array_equal(found["b"][0], decoded_alone(folder / "1.mp4"))


def test_children_that_are_killed_at_random_change_nothing(folder: Path) -> None:
    paths = sorted(folder.glob("*.mp4")) * 4
    rng = np.random.default_rng(0)
    seen: list[np.ndarray] = []
    with DecodePool(replace(SETTINGS, workers=2, arena_bytes=1 << 16)) as pool:
        for _, item in pool.decode(Source(str(number), path) for number, path in enumerate(paths)):
            if isinstance(item, Chunk):
                seen.append(item.frames.copy())
                if rng.random() < 0.15 and pool.replaced < 6:
                    os.kill(int(rng.choice(pool.pids)), signal.SIGKILL)
            else:
                assert item == End("pyav")
        assert pool.replaced >= 3
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate([decoded_alone(path) for path in paths]))


def test_a_child_that_cannot_start_ends_the_run_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(pool_module, "PYAV_CHILD", "reelkin.no_such_module")
    with DecodePool(SETTINGS) as pool, pytest.raises(ReelkinError, match="does not start: .*no_such_module"):
        all_of(pool, [Source("a", folder / "0.mp4")])


def test_nobody_reads_on_and_the_pool_can_be_used_again(folder: Path) -> None:
    with DecodePool(replace(SETTINGS, workers=2, arena_bytes=1)) as pool:
        run = pool.decode(Source(str(number), folder / "4.mp4") for number in range(50))
        next(run)
        run.close()  # type: ignore[attr-defined]
        assert len(all_of(pool, [Source("a", folder / "4.mp4")])["a"][0]) == 25
        pids = pool.pids
    assert pids and not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_pool_that_is_left_while_clips_are_under_way_ends(folder: Path) -> None:
    sources = [Source(str(number), folder / f"{number % 5}.mp4") for number in range(20)]
    kept = []

    def leave() -> None:
        with DecodePool(SETTINGS) as pool:
            kept.append(pool.decode(sources))
            next(kept[0])

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(ReelkinError, match="closed before all was decoded"):
        list(kept[0])


def test_a_script_that_fails_in_the_middle_of_its_clips_ends(folder: Path) -> None:
    lines = [
        "from reelkin.extract.decoding.geometry import Geometry",
        "from reelkin.extract.decoding.pool import DecodePool, PoolSettings",
        "from reelkin.extract.decoding.tasks import Source",
        "from reelkin.shards.video.sampling import Sampling",
        "def fail():",
        "    clips = DecodePool(PoolSettings(Sampling('all'), Geometry(48, 40), arena_bytes=1)).decode(",
        f"        Source(str(number), {str(folder / '4.mp4')!r}) for number in range(20))",
        "    next(clips)",
        "    raise ValueError('something else')",
        "fail()",
    ]
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "something else" in ended.stderr


def test_files_beside_the_videos_are_no_modules(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fractions", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run from where one stands')")
    monkeypatch.chdir(tmp_path)
    with DecodePool(SETTINGS) as pool:
        assert len(all_of(pool, [Source("a", folder / "0.mp4")])["a"][0]) == 5


def test_decoding_while_an_earlier_call_is_under_way_is_refused(folder: Path) -> None:
    with DecodePool(SETTINGS) as pool:
        under_way = pool.decode(Source(str(number), folder / "0.mp4") for number in range(20))
        next(under_way)
        with pytest.raises(RuntimeError, match="earlier call"):
            next(pool.decode([Source("x", folder / "1.mp4")]))
        under_way.close()
        assert len(all_of(pool, [Source("x", folder / "1.mp4")])) == 1


def test_what_the_list_of_clips_raises_reaches_the_caller(folder: Path) -> None:
    def sources() -> Iterable[Source]:
        yield Source("a", folder / "0.mp4")
        raise KeyError("the list broke")

    with DecodePool(SETTINGS) as pool, pytest.raises(KeyError, match="the list broke"):
        all_of(pool, sources())


def test_only_picked_pictures_come(folder: Path) -> None:
    with DecodePool(SETTINGS) as pool:
        run = pool.decode([Source("a", folder / "4.mp4")], lambda source, count: np.array([0, 3, count - 1]))
        items = [(item.frames.copy(), item.times) for _, item in run if isinstance(item, Chunk)]
    np.testing.assert_array_equal(
        np.concatenate([frames for frames, _ in items]), decoded_alone(folder / "4.mp4")[[0, 3, 24]]
    )
    np.testing.assert_allclose(np.concatenate([times for _, times in items]), [0.0, 0.6, 4.8])


PARENT = """
import sys, time
from pathlib import Path
from reelkin.extract.decoding.pool import DecodePool, PoolSettings
from reelkin.extract.decoding.geometry import Geometry
from reelkin.extract.decoding.tasks import Source
from reelkin.shards.video.sampling import Sampling
pool = DecodePool(PoolSettings(Sampling(mode="all"), Geometry(48, 40), workers=2, arena_bytes=1))
run = pool.decode(Source(str(n), Path(sys.argv[1])) for n in range(100))
next(run)
print(*pool.pids, flush=True)
time.sleep(60)
"""


def test_children_end_with_a_parent_that_is_killed(folder: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder / "4.mp4")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = parent.stdout.readline().split()
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


@given(st.lists(st.tuples(st.integers(1, 700), st.booleans()), max_size=60))
def test_pieces_of_the_ring_never_overlap_and_always_fit_again_when_all_were_given_back(
    steps: list[tuple[int, bool]],
) -> None:
    arena = Arena.create(1024)
    try:
        ring, out = Ring(arena), []
        for length, give_back in steps:
            if give_back and out:
                arena.give_back()
                out.pop(0)
            offset = ring.place(length)
            if offset is None:
                assert out  # an empty ring has room
                continue
            assert offset >= 0 and offset + length <= 1024
            assert all(offset + length <= first or first + size <= offset for first, size in out)
            out.append((offset, length))
        with pytest.raises(ValueError, match="do not fit"):
            ring.place(1025)
    finally:
        arena.close()
