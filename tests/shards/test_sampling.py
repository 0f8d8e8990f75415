"""Which pictures are taken: by time, keyframes, all, or by counting; and that taking fewer changes none of them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkin.core.errors import DataError, Reason, UsageError
from reelkin.shards.video import decode, pictures
from reelkin.shards.video.container import Limits
from reelkin.shards.video.cutting import cut_at_keyframes
from reelkin.shards.video.decode import TimedFrame, iter_frames
from reelkin.shards.video.probe import DecodingPlan, make_plan
from reelkin.shards.video.sampling import Samples, Sampling, SamplingMode, choose, legacy_indices
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.hostile_bases import VPX, X264, X265, encode

SOURCE = "testsrc2=size=64x48:rate=10:duration=4,noise=alls=10:all_seed=7"
OPEN_X265 = "log-level=none:pools=1:frame-threads=1:keyint=8:min-keyint=8:open-gop=1:bframes=3"
FORMATS: dict[str, tuple[str, ...]] = {
    "closed.mp4": X264,
    "open.mkv": (*X264, "-x264-params", "open-gop=1:b-pyramid=normal"),
    "open.ts": (*X264, "-bf", "3", "-x264-params", "open-gop=1"),
    "interlaced.mp4": (*X264, "-flags", "+ilme+ildct"),
    "refresh.mp4": (*X264, "-x264-params", "intra-refresh=1"),  # "keyframes" that are no pictures of their own
    "raw.h264": X264,
    "hevc.mp4": (*X265[:-1], OPEN_X265),
    "hevc.ts": (*X265[:-1], OPEN_X265),
    "layers.mp4": (*X265[:-1], OPEN_X265 + ":temporal-layers=3"),
    "altref.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "5", "-g", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp8.webm": ("-c:v", "libvpx", "-cpu-used", "5", "-g", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.mp4": ("-c:v", "libvpx-vp9", *VPX),
    "av1.mkv": ("-c:v", "libaom-av1", "-cpu-used", "8", "-g", "8", "-lag-in-frames", "8"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-r", "25", "-g", "8", "-bf", "2"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-r", "25", "-g", "8", "-bf", "2", "-flags", "+ilme+ildct"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-g", "8", "-bf", "2"),
    "packed.avi": ("-c:v", "libxvid", "-g", "8", "-bf", "2"),
    "claims.mkv": ("-c:v", "h263p", "-g", "8"),  # this container calls every one of its pictures a keyframe
    "old.wmv": ("-c:v", "wmv2", "-g", "8"),
    "flash.flv": ("-c:v", "flv", "-g", "8"),
    "theora.ogv": ("-c:v", "libtheora", "-g", "8"),
    "still.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "prores.mov": ("-c:v", "prores_ks"),
    "picture.gif": ("-pix_fmt", "rgb8"),
    "moving.apng": ("-plays", "0"),
}
ALONE = ["closed.mp4", "open.mkv", "open.ts", "hevc.mp4", "hevc.ts", "altref.webm", "vp8.webm", "vp9.mp4", "av1.mkv"]
ALONE += ["mpeg2.ts", "mpeg2.mpg", "mpeg4.mp4", "old.wmv", "flash.flv", "theora.ogv", "still.avi", "prores.mov"]
UNREFERENCED = ["hevc.mp4", "closed.mp4", "open.mkv", "open.ts", "mpeg2.ts", "mpeg2.mpg", "mpeg4.mp4"]
MODES = [Sampling(), Sampling("times", 3.7), Sampling("keyframes"), Sampling("keyframes", 100.0)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Four seconds of a format, made when first asked for."""
    folder = tmp_path_factory.mktemp("formats")

    def made(name: str) -> Path:
        path = folder / name
        return path if path.exists() else encode(path, *FORMATS[name], source=SOURCE)

    return made


def taken(path: Path | bytes, sampling: Sampling, **settings: object) -> list[TimedFrame]:
    plan = make_plan(path)
    return list(iter_frames(path, plan=plan, samples=choose(plan, sampling), **settings))  # type: ignore[arg-type]


def a_plan(seconds: list[float], keyframes: list[int], announced_fps: float = 25.0) -> DecodingPlan:
    """A plan of pictures at these times."""
    flags = np.isin(np.arange(len(seconds)), keyframes)
    times = np.asarray(seconds, np.float64)
    plan = make_plan(a_video())
    facts = replace(
        plan.probe, pts_seconds=times, keyframes=flags, num_frames=len(times), duration_seconds=times[-1] + 1
    )
    return replace(plan, probe=facts, announced_fps=announced_fps)


def a_video(cache: list[bytes] = []) -> bytes:  # noqa: B006 - made once
    if not cache:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            cache.append(videos.make_video(Path(folder) / "a.mp4", seconds=0.2).read_bytes())
    return cache[0]


# Which pictures


def test_keyframes_come_at_their_own_times_and_not_closer_than_the_rate_allows() -> None:
    plan = a_plan([0, 0.5, 1.0, 1.4, 2.0, 2.4, 5.0, 9.0], [0, 2, 3, 4, 5, 6])
    one, all_of_them = choose(plan, Sampling("keyframes")), choose(plan, Sampling("keyframes", 100.0))
    assert one.indices.tolist() == [0, 2, 4, 6] and one.times.tolist() == [0, 1.0, 2.0, 5.0]
    assert all_of_them.indices.tolist() == [0, 2, 3, 4, 5, 6] and one.keyframes_only
    assert choose(plan, Sampling("keyframes", 0.3)).indices.tolist() == [0, 6]  # 3.33 s apart at least


def test_keyframes_spaced_by_the_rate_are_all_kept_in_containers_that_count_milliseconds() -> None:
    plan = a_plan([0, 0.333, 0.667, 1.0, 1.333], list(range(5)))
    assert len(choose(plan, Sampling("keyframes", 3.0))) == 5


def test_a_video_without_keyframes_gives_its_first_picture() -> None:
    samples = choose(a_plan([0, 0.5, 1.0], []), Sampling("keyframes"))
    assert samples.indices.tolist() == [0] and not samples.keyframes_only


def test_all_takes_every_picture_at_its_own_time() -> None:
    samples = choose(a_plan([0, 0.5, 3.0], [0]), Sampling("all"), start_seconds=7.0)
    assert samples.indices.tolist() == [0, 1, 2] and samples.times.tolist() == [0, 0.5, 3.0]


@settings(deadline=None, max_examples=300)
@given(
    num_frames=st.integers(1, 900), fps=st.one_of(st.sampled_from([23.976, 29.97, 24.5, 25.5]), st.floats(0.51, 200))
)
def test_legacy_picking_agrees_with_counting_the_pictures_one_by_one(num_frames: int, fps: float) -> None:
    step = round(25 if fps > 144 else fps)
    kept = [i for i in range(num_frames) if i == 0 or (i + 1) % step == 0]
    assert legacy_indices(num_frames, fps).tolist() == kept + kept[-1:]


@pytest.mark.parametrize("fps", [0.0, 0.4, float("nan"), float("inf"), 144.1, -1.0])
def test_legacy_picking_takes_25_where_the_rate_cannot_be_used(fps: float) -> None:
    assert legacy_indices(60, fps).tolist() == [0, 24, 49, 49]


def test_legacy_picking_by_hand() -> None:
    assert legacy_indices(1, 30.0).tolist() == [0, 0]
    assert legacy_indices(90, 29.97).tolist() == [0, 29, 59, 89, 89]
    assert legacy_indices(3, 1.0).tolist() == [0, 1, 2, 2]
    samples = choose(a_plan([n / 10 for n in range(25)], [0], announced_fps=10.0), Sampling("tca-legacy"))
    assert samples.indices.tolist() == [0, 9, 19, 19] and samples.times.tolist() == [0, 0.9, 1.9, 1.9]


def test_legacy_picking_refuses_a_clip_that_was_cut_out_of_a_video() -> None:
    with pytest.raises(UsageError, match=r"12\.500 seconds.*--clip-seconds"):
        choose(a_plan([0, 1], [0]), Sampling("tca-legacy"), start_seconds=12.5)


def test_a_sampling_survives_json_and_refuses_what_it_does_not_know() -> None:
    for sampling in MODES:
        assert Sampling.from_dict(sampling.as_dict()) == sampling
    with pytest.raises(UsageError, match="'random' is none of times, keyframes"):
        Sampling.from_dict({"mode": "random", "fps": 1})
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="positive"):
            Sampling("times", fps)


def test_some_of_the_samples_can_be_taken() -> None:
    samples = Samples(np.array([0, 4, 4, 9]), np.array([0.0, 1.0, 2.0, 3.0]), keyframes_only=True)
    some = samples.take(np.array([1, 3]))
    assert some.indices.tolist() == [4, 9] and some.times.tolist() == [1, 3] and some.keyframes_only
    assert len(samples.take(np.array([True, False, False, False]))) == 1


# The same pictures, whatever else is decoded


@pytest.mark.parametrize("name", FORMATS)
def test_fewer_pictures_are_the_same_pictures(video: Callable[[str], Path], name: str) -> None:
    path = video(name)
    whole = taken(path, Sampling("all"))
    plan = make_plan(path)
    for sampling in MODES:
        samples = choose(plan, sampling)
        for threads in (1, 2):
            found = list(iter_frames(path, plan=plan, samples=samples, threads=threads))
            assert [f.time for f in found] == samples.times.tolist()
            assert [f.pts for f in found] == plan.probe.pts_seconds[samples.indices].tolist()
            for frame, index in zip(found, samples.indices, strict=True):
                assert np.array_equal(frame.picture, whole[index].picture), (sampling, threads, index)


@pytest.mark.parametrize(
    ("names", "sampling"), [(ALONE, Sampling("keyframes")), (UNREFERENCED, Sampling())], ids=["alone", "marked"]
)
def test_what_is_not_needed_is_not_decoded(
    video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, names: list[str], sampling: Sampling
) -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError("everything is decoded")

    monkeypatch.setattr(decode, "all_pictures", refused)
    for name in names:
        assert taken(video(name), sampling), name


def test_pictures_of_hevc_in_temporal_layers_are_all_decoded(
    video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(decode, "all_pictures", lambda *a: calls.append(a) or pictures.all_pictures(*a))
    assert taken(video("hevc.mp4"), Sampling()) and not calls
    assert taken(video("layers.mp4"), Sampling()) and calls


def packets(path: Path) -> list[tuple[int, int, bool, bool]]:
    """Position, size, whether it is a keyframe, and whether others refer to it, of each H.264 packet in an MP4."""
    import av

    with av.open(str(path)) as container:
        found = []
        for packet in container.demux(video=0):
            if packet.size:
                data, at, referred = bytes(packet), 0, False
                while at + 4 < len(data):
                    referred |= data[at + 4] & 0x1F in (1, 5) and bool(data[at + 4] & 0x60)
                    at += 4 + int.from_bytes(data[at : at + 4], "big")
                found.append((packet.pos, packet.size, packet.is_keyframe, referred))
    return found


def broken(path: Path, output: Path, which: Callable[[bool, bool], bool], after: int = 8) -> Path:
    """The file with the ends of some packets overwritten: ``which(is_keyframe, others_refer_to_it)``."""
    data = bytearray(path.read_bytes())
    for position, size, key, referred in packets(path)[after:]:
        if which(key, referred):
            start = position + min(size - 1, 6 + size // 4)
            data[start : position + size] = b"\xff" * (position + size - start)
    output.write_bytes(data)
    return output


def test_damage_between_keyframes_is_seen_unless_keyframes_are_asked_for(
    video: Callable[[str], Path], tmp_path: Path
) -> None:
    bad = broken(video("closed.mp4"), tmp_path / "bad.mp4", lambda key, referred: not key)
    for sampling in (Sampling("all"), Sampling()):
        with pytest.raises(DataError) as caught:
            taken(bad, sampling)
        assert caught.value.reason is Reason.DAMAGED
    good = taken(video("closed.mp4"), Sampling("keyframes"))
    for found, expected in zip(taken(bad, Sampling("keyframes")), good, strict=True):
        assert np.array_equal(found.picture, expected.picture)


def test_a_damaged_keyframe_ends_every_mode_alike(video: Callable[[str], Path], tmp_path: Path) -> None:
    bad = broken(video("closed.mp4"), tmp_path / "bad.mp4", lambda key, referred: key)
    messages = set()
    for sampling in (Sampling("all"), Sampling("times", 3.0), Sampling("keyframes")):
        frames: list[TimedFrame] = []
        plan = make_plan(bad)
        with pytest.raises(DataError) as caught:
            frames.extend(iter_frames(bad, plan=plan, samples=choose(plan, sampling)))
        assert caught.value.reason is Reason.DAMAGED
        messages.add(str(caught.value))
    assert len(messages) == 1, messages


def test_damage_of_pictures_that_no_sample_needs_is_not_seen_and_changes_none(
    video: Callable[[str], Path], tmp_path: Path
) -> None:
    path = video("closed.mp4")
    bad = broken(path, tmp_path / "bad.mp4", lambda key, referred: not referred, after=0)
    assert bad.read_bytes() != path.read_bytes()
    plan = make_plan(path)
    with pytest.raises(DataError):
        taken(bad, Sampling("all"))
    referred = [at for at, (_, _, _, used) in enumerate(packets(path)) if used]
    import av

    with av.open(str(path)) as container:
        stored = [packet.pts for packet in container.demux(video=0) if packet.size]
    indices = np.sort(np.searchsorted(plan.pts, [stored[at] for at in referred]))[::3]
    samples = Samples(indices, plan.probe.pts_seconds[indices])
    for found, expected in zip(
        iter_frames(bad, plan=make_plan(bad), samples=samples),
        iter_frames(path, plan=plan, samples=samples),
        strict=True,
    ):
        assert np.array_equal(found.picture, expected.picture)


def test_a_truncated_video_gives_the_keyframes_before_its_end_and_raises(
    video: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = taken(video("open.mkv"), Sampling("keyframes", 100.0))
    cut = videos.make_truncated(tmp_path / "cut.mkv", video("open.mkv"), keep=0.6)
    plan, frames = make_plan(cut), []
    with pytest.raises(DataError) as caught:
        for frame in iter_frames(cut, plan=plan, samples=choose(plan, Sampling("keyframes", 100.0))):
            frames.append(frame)
    assert caught.value.reason is Reason.TRUNCATED and 1 < len(frames) < len(whole)
    for found, expected in zip(frames, whole, strict=False):
        assert np.array_equal(found.picture, expected.picture)


@pytest.mark.parametrize("name", ["open.ts", "mpeg2.ts", "hevc.ts"])
def test_a_recording_that_begins_in_the_middle_keeps_its_times(video: Callable[[str], Path], name: str) -> None:
    data = video(name).read_bytes()
    middle = data[: 188 * 2] + data[188 * (len(data) // 188 // 5) :]  # the tables, then from within a group of pictures
    plan, whole_plan = make_plan(middle), make_plan(data)
    assert 0 < plan.num_hidden < 12 and len(plan.pts) + plan.num_hidden <= len(whole_plan.pts)
    whole = {int(pts): frame for pts, frame in zip(whole_plan.pts, taken(data, Sampling("all")), strict=True)}
    for sampling in (*MODES, Sampling("all")):
        samples = choose(plan, sampling)
        frames = list(iter_frames(middle, plan=plan, samples=samples))
        assert frames[0].time == 0 and [f.time for f in frames] == samples.times.tolist()
        for frame, index in list(zip(frames, samples.indices, strict=True))[1:]:
            assert np.array_equal(frame.picture, whole[int(plan.pts[index])].picture), (sampling, index)


def test_pictures_hidden_by_an_edit_list_stay_hidden_and_clips_give_what_the_whole_gives(
    video: Callable[[str], Path], tmp_path: Path
) -> None:
    path = video("hevc.mp4")
    plan = make_plan(path)
    clips = cut_at_keyframes(path, 1.2, tmp_path, Limits(), plan=plan)
    plans = [make_plan(Path(clip.path)) for clip in clips]
    assert len(clips) > 2 and plans[0].num_hidden > 0 and plan.num_hidden == 0  # the next clip's keyframe, once more
    modes: list[Sampling] = [*MODES, Sampling("all")]
    for sampling in modes:
        whole = choose(plan, sampling)
        frames = list(iter_frames(path, plan=plan, samples=whole))
        parts = []
        for clip, own in zip(clips, plans, strict=True):
            samples = choose(own, sampling, clip.start_seconds)
            for frame in iter_frames(Path(clip.path), plan=own, samples=samples):
                parts.append((frame.time + clip.start_seconds, frame.picture))
        if sampling == Sampling("keyframes"):  # closer together than a second: counted anew in each clip
            assert {round(clip.start_seconds, 6) for clip in clips} <= {round(time, 6) for time, _ in parts}
            continue
        assert [time for time, _ in parts] == pytest.approx([frame.time for frame in frames], abs=1e-6)
        assert all(np.array_equal(part[1], frame.picture) for part, frame in zip(parts, frames, strict=True))


def test_rotation_is_applied_in_every_mode(tmp_path: Path) -> None:
    path = videos.make_video(tmp_path / "turned.mp4", seconds=3, pattern="corners", gop=10)
    upright = taken(path, Sampling("keyframes"))[0].picture
    videos.set_display_matrix(path, 0, 1, -1, 0)
    modes: tuple[SamplingMode, ...] = ("times", "keyframes", "all", "tca-legacy")
    for mode in modes:
        for frame in taken(path, Sampling(mode)):
            assert frame.picture.shape == (96, 64, 3)
            assert np.median(np.abs(frame.picture.astype(int) - np.rot90(upright, -1))) < 4
    assert taken(path, Sampling(), scaling="tca", short_side=32)[0].picture.shape == (48, 32, 3)


def test_pictures_whose_marks_could_mislead_are_decoded_with_all_others(video: Callable[[str], Path]) -> None:
    plan = make_plan(video("closed.mp4"))
    some = np.array([0, 5])
    assert pictures.shorter_way(plan, some, keyframes_only=False) is not None
    twice = replace(plan, pts=np.sort(np.append(plan.pts[:-1], plan.pts[3])))
    for misleading in (twice, replace(plan, ordinal=True), replace(plan, probe=replace(plan.probe, codec="vp9"))):
        assert pictures.shorter_way(misleading, some, keyframes_only=False) is None
    assert pictures.shorter_way(plan, np.arange(len(plan.pts)), keyframes_only=False) is None
    counted = make_plan(video("still.avi"))
    assert counted.ordinal and pictures.shorter_way(counted, some, keyframes_only=False) is not None
    assert pictures.shorter_way(replace(counted, num_hidden=1), some, keyframes_only=False) is None


# What a plan says


def test_a_plan_knows_the_profile_the_announced_rate_and_what_is_hidden(video: Callable[[str], Path]) -> None:
    plan = make_plan(video("closed.mp4"))
    assert plan.probe.profile == "High" and plan.announced_fps == 10 and plan.num_hidden == 0
    assert "profile" not in plan.probe.facts()
    assert make_plan(video("mpeg2.ts")).announced_fps == 25


def test_a_plan_and_its_pictures_are_gone_without_the_garbage_collector(video: Callable[[str], Path]) -> None:
    taken(video("closed.mp4"), Sampling())
    gc.collect()
    gc.disable()
    try:
        for name in ("closed.mp4", "open.mkv", "vp9.mp4"):
            for sampling in MODES:
                taken(video(name), sampling)
        left = [held for held in gc.get_objects() if type(held) is VideoFrame]
        assert max((frame.width * frame.height for frame in left), default=0) <= 4
    finally:
        gc.enable()
