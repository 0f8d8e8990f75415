"""Building: every input ends as a row, the bytes depend on the inputs alone, and a stopped build goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.core.errors import ExitCode, Reason, UsageError
from reelkin.core.files import publish_table, read_json, read_table
from reelkin.shards import build as command
from reelkin.shards.packing.building import build, describe
from reelkin.shards.packing.config import BuildConfig, parse_size
from reelkin.shards.packing.plan import Plan
from reelkin.shards.reader import ShardSet
from reelkin.shards.sources.inputs import Kind, VideoInput
from reelkin.tests.helpers import videos

SCRIPT = Path(command.__file__)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def mixed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad files; treat as read-only."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in ("front.mp4", "h264.mkv", "vp9.webm", "picture.gif", "stream.ts"):
        shutil.copy(made / name, folder / f"good_{name}")
    target = folder / "good_front.mp4"
    videos.make_truncated(folder / "bad_cut.mp4", made / "noise.mp4")
    videos.make_empty(folder / "bad_empty.mp4")
    videos.make_audio_only(folder / "bad_sound.mp4")
    videos.make_text(folder / "bad_text.mp4")
    videos.make_ffconcat(folder / "bad_concat.mp4", target)
    videos.make_playlist(folder / "bad_playlist.mp4", target)
    (folder / "bad_link.mp4").symlink_to("nowhere")
    (folder / "notes.md").write_text("not an input")
    return folder


BAD = {
    "bad_cut": "truncated",
    "bad_empty": "empty-file",
    "bad_sound": "no-video-stream",
    "bad_text": "not-a-video",
    "bad_concat": "forbidden-format",
    "bad_playlist": "forbidden-format",
    "bad_link": "missing",
}


def test_each_bad_file_is_a_row_with_its_reason_and_the_good_ones_are_untouched(mixed: Path, tmp_path: Path) -> None:
    outcome = build(BuildConfig(videos=(mixed,), output=tmp_path / "out", workers=2))
    shards = ShardSet.open(tmp_path / "out")
    assert {row.video_id: row.reason for row in shards.rejects} == BAD
    assert all(row.detail and row.num_clips == 0 and not row.sha256 for row in shards.rejects)
    good = {row.video_id: row for row in shards.videos if row.status == "ok"}
    assert len(good) == 5 and shards.num_clips == 5
    for row in good.values():
        assert shards.read_clip(row.video_id)[0].data == (mixed / row.path).read_bytes()
    assert [row.video_id for row in shards.videos] == sorted([*BAD, *good])
    assert outcome.exit_code == ExitCode.REJECTS and outcome.num_rejected == 7  # more than half
    assert read_json(tmp_path / "out" / "outcome.json")["reasons"]["forbidden-format"] == 2


def test_the_budget_of_rejects_decides_the_exit_code_and_what_is_missing_does_not_count(
    mixed: Path, tmp_path: Path
) -> None:
    for share, code in ((0.5, ExitCode.REJECTS), (6 / 11, ExitCode.OK), (0.0, ExitCode.REJECTS)):
        assert build(BuildConfig((mixed,), tmp_path / "out", max_reject_share=share)).exit_code == code


def test_the_number_of_workers_changes_nothing(mixed: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        build(BuildConfig((mixed,), tmp_path / str(workers), shard_videos=3, workers=workers))
    one, three = contents(tmp_path / "1"), contents(tmp_path / "3")
    assert one == three and sum(name.endswith(".tar") for name in one) >= 2


def test_full_check_finds_damage_inside_a_video_that_a_first_look_does_not(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(made / "noise.mp4", folder / "good.mp4")
    videos.make_damaged(folder / "bad.mp4", made / "noise.mp4", start=0.5)
    build(BuildConfig((folder,), tmp_path / "first"))
    build(BuildConfig((folder,), tmp_path / "full", check="full"))
    assert ShardSet.open(tmp_path / "first").rejects == []
    assert [(r.video_id, r.reason) for r in ShardSet.open(tmp_path / "full").rejects] == [("bad", "damaged")]


def inputs_of(sizes: list[int]) -> list[VideoInput]:
    return [VideoInput(f"v{n:03d}", f"/x/v{n}", f"v{n}", size, 0) for n, size in enumerate(sizes)]


def test_groups_are_cut_by_size_and_number_alone() -> None:
    config = BuildConfig((Path("x"),), Path("y"), shard_bytes="100B", shard_videos=3).effective()
    plan = Plan.make(inputs_of([60, 40, 1, 250, 10, 10, 10, 10, -1]), config, first_shard=5)
    groups = [plan.group(n) for n in range(len(plan))]
    assert [[i.video_id for i in g.inputs] for g in groups] == [
        ["v000", "v001"],
        ["v002"],
        ["v003"],
        ["v004", "v005", "v006"],
        ["v007", "v008"],
    ]
    assert [g.shard_name for g in groups] == [f"clips-00000{n}.tar" for n in (5, 6, 7, 8, 9)]
    assert (plan.bytes, plan.bytes_of(0, 2), plan.num_inputs_of(3)) == (391, 101, 3)
    assert Plan.make([], config).hashes == []


def test_a_plan_reaches_other_ranks_as_it_was(tmp_path: Path) -> None:
    config = BuildConfig((Path("x"),), Path("y"), shard_videos=2).effective()
    odd = VideoInput("v9", os.fsdecode(b"/x/\xff.mp4"), "\\xff.mp4", 3, 4, Reason.BAD_ID, "a sentence", Kind.FRAMES)
    inputs = [*inputs_of([60, 40, -1]), odd]
    plan = Plan.make(inputs, config)
    publish_table(tmp_path / "inputs.parquet", plan.inputs)
    sent = Plan.from_plain(read_table(tmp_path / "inputs.parquet"), json.loads(json.dumps(plan.to_plain())))
    assert [entry for n in range(len(sent)) for entry in sent.group(n).inputs] == inputs
    assert sent.to_plain() == plan.to_plain()


def test_a_group_without_any_good_video_makes_no_shard(mixed: Path, tmp_path: Path) -> None:
    build(BuildConfig((mixed,), tmp_path / "out", shard_videos=2))
    shards = ShardSet.open(tmp_path / "out")
    assert "clips-000000.tar" not in shards.shard_names  # bad_concat and bad_cut
    assert not (tmp_path / "out" / "clips-000000.tar").exists()
    assert len(shards.videos) == 12 and shards.num_clips == 5


def test_a_second_run_keeps_what_is_there(mixed: Path, tmp_path: Path) -> None:
    config = BuildConfig((mixed,), tmp_path / "out", shard_videos=3)
    build(config)
    tars = {path: path.stat().st_ino for path in (tmp_path / "out").glob("*.tar")}
    before = contents(tmp_path / "out")
    missing = sorted(tars)[-1]
    missing.unlink()
    left = tmp_path / "out" / f".{missing.name}.partial-1-x"
    left.write_bytes(b"left by a killed run")
    os.utime(left, (0, 0))
    build(config)
    assert contents(tmp_path / "out") == before
    kept = {path: path.stat().st_ino for path in tars if path != missing}
    assert kept == {path: inode for path, inode in tars.items() if path != missing}


def test_other_settings_or_inputs_are_refused_until_a_rebuild_is_asked_for(made: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        shutil.copy(made / "one.mp4", folder / f"{name}.mp4")
    build(BuildConfig((folder,), out, shard_videos=2))
    first = (out / "clips-000000.tar").stat().st_ino
    with pytest.raises(UsageError, match=r"other settings: shard_videos 2 instead of 1.*--rebuild"):
        build(BuildConfig((folder,), out, shard_videos=1))
    (folder / "d.mp4").unlink()
    with pytest.raises(UsageError, match="4 inputs instead of 3"):
        build(BuildConfig((folder,), out, shard_videos=2))
    assert len(ShardSet.open(out).videos) == 4  # a refused build leaves the folder as it was
    build(BuildConfig((folder,), out, shard_videos=2, rebuild=True))
    assert [row.video_id for row in ShardSet.open(out).videos] == ["a", "b", "c"]
    assert (out / "clips-000000.tar").stat().st_ino == first  # its inputs did not change
    os.utime(folder / "a.mp4", (1, 1))
    with pytest.raises(UsageError, match="other inputs"):
        build(BuildConfig((folder,), out, shard_videos=2))
    build(BuildConfig((folder,), out, shard_videos=3, rebuild=True))
    assert ShardSet.open(out).shard_names == ["clips-000000.tar"] and not (out / "clips-000001.tar").exists()


def test_limit_takes_the_first_ids_and_a_dry_run_writes_nothing(mixed: Path, tmp_path: Path) -> None:
    text = describe(BuildConfig((mixed,), tmp_path / "out", limit=9, shard_videos=4))
    assert "inputs: 9 (1 of them missing or badly named)" in text and "shards: 3" in text
    assert "1 files that are not videos: .md 1" in text
    assert not (tmp_path / "out").exists()
    build(BuildConfig((mixed,), tmp_path / "out", limit=9))
    assert len(ShardSet.open(tmp_path / "out").videos) == 9


def test_a_folder_without_videos_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt.bak").write_text("x")
    with pytest.raises(UsageError, match=r"no video was found in .* \(1 files that are not videos: \.bak 1\)"):
        build(BuildConfig((tmp_path,), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_sizes_and_bad_settings() -> None:
    assert [parse_size(text, "x") for text in ("512MB", "2 GiB", "1000", "1.5kb", "7b")] == [
        512_000_000,
        2 << 30,
        1000,
        1500,
        7,
    ]
    for bad in ("", "0", "MB", "-1MB", "5 parsecs"):
        with pytest.raises(UsageError, match="shard_bytes"):
            BuildConfig((Path("x"),), Path("y"), shard_bytes=bad)
    for settings in ({"limit": 0}, {"max_reject_share": 1.5}, {"workers": -1}, {"timeout_seconds": 0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            BuildConfig((Path("x"),), Path("y"), **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="videos"):
        BuildConfig((), Path("y"))


def run(*arguments: str | Path, launcher: tuple[str, ...] = (), **settings: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, as a plain file."""
    line = [*launcher, sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=180, **settings)  # type: ignore[call-overload]


def test_as_a_file_it_says_what_is_missing_what_it_did_and_how_it_ended(mixed: Path, tmp_path: Path) -> None:
    assert os.access(SCRIPT, os.X_OK)
    nothing = run(cwd=tmp_path)
    assert nothing.returncode == 2 and "--videos" in nothing.stderr and "shards/build.py --videos" in nothing.stderr
    done = run("--videos", mixed, "--output", "out", "--max_reject_share", "0.6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rejected bad_empty: empty-file (0 bytes)" in done.stderr
    assert "5 of 12 videos in 1 shards" in done.stdout and "forbidden-format 2" in done.stdout
    over = run("--videos", mixed, "--output", "out", cwd=tmp_path)
    assert over.returncode == 3 and "55% of what was there rejected" in over.stderr


def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(made: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = ("--videos", made, "--output", tmp_path / "out", "--shard-videos", "4", "--workers", "1")
    full = run(*arguments, preexec_fn=small_files)
    assert full.returncode == 1 and "cannot write" in full.stderr and ".tar" in full.stderr, full.stderr
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "out" / "shards.json").exists()
    assert not list((tmp_path / "out").glob(".*"))
    assert run(*arguments).returncode == 0  # after making room
    build(BuildConfig((made,), tmp_path / "reference", shard_videos=4, workers=1))
    assert contents(tmp_path / "out") == contents(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [("horovodrun", "-np", "2"), ("torchrun", "--nproc-per-node", "2", "--no-python"), ("horovodrun", "-np", "3")],
    ids=["horovodrun-2", "torchrun-2", "horovodrun-3"],
)
def test_ranks_build_the_same_bytes_together(mixed: Path, tmp_path: Path, launcher: tuple[str, ...]) -> None:
    program = Path(sys.executable).with_name(launcher[0])
    if not program.exists():
        pytest.skip(f"{launcher[0]} is not installed")
    arguments = ("--videos", mixed, "--shard-videos", "2", "--workers", "1", "--max-reject-share", "1")
    alone = run(*arguments, "--output", tmp_path / "alone")
    together = run(*arguments, "--output", tmp_path / "together", launcher=(str(program), *launcher[1:]))
    assert alone.returncode == 0 and together.returncode == 0, together.stderr[-3000:]
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")
    assert together.stdout.count("5 of 12 videos") == 1
