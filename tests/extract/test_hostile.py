"""A hostile corpus through shards and extraction: every input ends with features or with a reason, nothing dies, and
what is whole has the features that it has without its bad neighbours.

Shards look at the first picture of a file only, so what breaks later comes here. With DALI the clips of its codecs are
damaged as well: what it fails at, or dies of, PyAV decodes, so both decoders accept the same.
"""

from __future__ import annotations

import csv
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.errors import ExitCode, Reason
from reelkin.extract import run
from reelkin.extract.describe import Describer
from reelkin.extract.encoders import EncoderSpec, build_encoder
from reelkin.extract.queries import Extraction, extract_videos
from reelkin.extract.store import FeatureStore
from reelkin.shards import build
from reelkin.shards.reader import ShardSet
from reelkin.shards.sources.inputs import printable
from reelkin.shards.video.probe import make_plan
from reelkin.shards.video.sampling import Sampling
from reelkin.tests.helpers import hostile_bytes
from reelkin.tests.helpers.dali_there import need_dali
from reelkin.tests.helpers.hostile import Hostile, make_corpus
from reelkin.tests.helpers.hostile_bases import NUM_PICTURES, Bases
from reelkin.tests.helpers.oracle import ask_ffmpeg
from reelkin.tests.helpers.runs import Ran, children, run_here, state_of

DALIS = ("vp9.webm", "vp8.webm", "still.mov")
"""Whole videos that DALI decodes without a GPU."""
PYAVS = ("front.mp4", "h264.mkv", "hevc.mp4", "mpeg4.avi", "mjpeg.avi", "vp8.ivf", "h264.ts", "mpeg2.mpg")
DECODERS = ("pyav", "dali")


@dataclass(frozen=True)
class Extracted:
    """One run of the command, and what it left behind."""

    ran: Ran
    folder: Path
    store: FeatureStore
    seconds: float
    left: list[str]


@dataclass(frozen=True)
class Case:
    """A corpus, its shards, and a store of each decoder.

    Attributes:
        entries: what is in the corpus, by id.
        clean: stores of the accepted videos alone, which were never beside a bad one.
        asked: the files themselves, without shards.
    """

    entries: dict[str, Hostile]
    shards: ShardSet
    runs: dict[str, Extracted]
    clean: dict[str, FeatureStore]
    asked: Extraction
    untouched: bool


def damaged_pictures(folder: Path, seed: int, count: int) -> list[Hostile]:
    """Random damage to what DALI decodes, and to what it does not."""
    bases, rng, made = Bases(folder.parent.with_name(folder.parent.name + ".bases")), random.Random(seed), []
    folder.mkdir(parents=True)
    for number in range(count):
        kind, damage = hostile_bytes.ANYWHERE[number % len(hostile_bytes.ANYWHERE)]
        base = rng.choice(DALIS if number % 3 else PYAVS)
        path = folder / f"{number:03d} {kind} {base}"
        path.write_bytes(damage(bases.data(base), random.Random(rng.random())))
        made.append(Hostile(path, kind, "either", NUM_PICTURES))
    return made


def extract(shards: Path, work: Path, encoder: Path, decoder: str) -> Extracted:
    """Extract with a current folder and a temporary folder of its own."""
    here, temporary, output = (work / f"{name}-{decoder}" for name in ("here", "temporary", "store"))
    for folder in (here, temporary):
        folder.mkdir(parents=True)
    flags = ("--size", "48", "--crop", "40", "--sampling", "all", "--timeout-seconds", "30", "--decode-workers", "2")
    before, began = children(), time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(work / "torch"))  # made when parts of torch are imported
        ran = run_here(
            run.main,
            *("--shards", shards, "--output", output, "--decoder", decoder, *flags),
            *("--encoder", "torchscript", "--weights", encoder, "--max-reject-share", "1"),
        )
    seconds = time.monotonic() - began
    assert ran.code == ExitCode.OK, ran.log
    left = [str(path) for folder in (here, temporary) for path in folder.rglob("*")]
    left += [f"process {pid}" for pid in children() - before]
    left += [
        path.name for path in output.iterdir() if not re.fullmatch(r"(manifest\.p|store\.j|features-).*", path.name)
    ]
    return Extracted(ran, output, FeatureStore.open(output), seconds, left)


def make_case(work: Path, encoder: Path, seed: int, count: int, pictures: int) -> Case:
    """Make a corpus and shards, and extract."""
    folder = work / "corpus"
    corpus = [entry for entry in make_corpus(folder, seed, count) if entry.expectation != "ignored"]
    corpus += damaged_pictures(folder / "pictures", seed, pictures)
    torch.set_num_threads(1)
    built = run_here(
        build.main,
        *("--videos", folder, "--output", work / "shards", "--max-reject-share", "1"),
        *("--workers", "2", "--timeout-seconds", "20", "--shard-videos", "60"),
    )
    assert built.code == ExitCode.OK, built.log
    shards = ShardSet.open(work / "shards")
    before = state_of(shards.folder)
    runs = {name: extract(shards.folder, work / "whole", encoder, name) for name in DECODERS}
    untouched = state_of(shards.folder) == before

    path_of = {row.video_id: folder / row.path for row in shards.videos}
    good = runs["pyav"].store.video_ids
    with open(work / "good.csv", "w", newline="") as file:
        csv.writer(file).writerows([("video_id", "path"), *((name, path_of[name]) for name in good)])
    assert run_here(build.main, "--videos", work / "good.csv", "--output", work / "good").code == ExitCode.OK
    clean = {name: extract(work / "good", work / "clean", encoder, name).store for name in DECODERS}

    with Describer(
        build_encoder(EncoderSpec("torchscript", str(encoder), 48, 40)),
        sampling=Sampling(mode="all"),
        workers=2,
        timeout_seconds=30,
    ) as describer:
        asked = extract_videos({name: entry.path for name, entry in _named(corpus, folder).items()}, describer)
    return Case(_by_id(corpus, folder, shards), shards, runs, clean, asked, untouched)


def _named(corpus: Sequence[Hostile], folder: Path) -> dict[str, Hostile]:
    return {printable(entry.path.relative_to(folder).as_posix()): entry for entry in corpus}


def _by_id(corpus: Sequence[Hostile], folder: Path, shards: ShardSet) -> dict[str, Hostile]:
    named = _named(corpus, folder)
    return {row.video_id: named[row.path] for row in shards.videos if row.status == "ok"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Case:
    """A few of what breaks in the middle."""
    need_dali()
    return make_case(tmp_path_factory.mktemp("small"), tiny_file, seed=5, count=0, pictures=65)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path) -> Case:
    """Everything, filled up with random damage."""
    need_dali()
    return make_case(tmp_path_factory.mktemp("large"), tiny_file, seed=11, count=400, pictures=400)


def check_account(case: Case) -> None:
    """Features and rejects are the inputs, and every reject says why."""
    everything = Counter(row.video_id for row in case.shards.videos)
    assert everything.total() == len(case.shards.videos)
    for extracted in case.runs.values():
        store = extracted.store
        assert Counter(store.video_ids) + Counter(row.video_id for row in store.rejects) == everything
        for row in store.rejects:
            assert row.reason in set(Reason) and row.reason not in ("decoder-died", "timeout", "encoder-failed"), row
            assert row.detail and row.detail.isprintable() and row.num_frames == 0, row
        for name in store.video_ids:
            assert store.num_frames(name) >= 1 and np.isfinite(store.features(name).astype(np.float32)).all(), name
            assert (np.diff(store.times(name)) >= 0).all() and store.times(name)[0] == 0, name
        store.verify()
        assert f"{len(store)} videos, " in extracted.ran.said and f"{len(store.rejects)} rejected" in extracted.ran.said


def check_damage_was_found_here(case: Case) -> None:
    """Of what the shards accepted, some is bad: otherwise this proves nothing."""
    accepted = sum(row.status == "ok" for row in case.shards.videos)
    late = accepted - len(case.runs["pyav"].store)
    assert late >= accepted / 20
    made_by = Counter(case.runs["dali"].store.row(name).decoder for name in case.runs["dali"].store.video_ids)
    assert min(made_by["dali"], made_by["pyav"]) >= 10 and made_by.total() == len(case.runs["dali"].store)
    assert "PyAV decodes it" in case.runs["dali"].ran.log


def check_nothing_left(case: Case) -> None:
    assert case.untouched
    for extracted in case.runs.values():
        assert extracted.left == []
        assert extracted.seconds < 240


def check_decoders_agree(case: Case) -> None:
    """On who has features, on how many, on the times and on the reasons."""
    one, other = (case.runs[name].store for name in DECODERS)
    assert one.video_ids == other.video_ids
    assert [(row.video_id, row.reason) for row in one.rejects] == [(row.video_id, row.reason) for row in other.rejects]
    for name in one.video_ids:
        np.testing.assert_array_equal(other.times(name), one.times(name), err_msg=name)
        assert other.features(name).shape == one.features(name).shape


def check_neighbours(case: Case) -> None:
    """The same bits as without the bad ones, which stood among them and shared batches with them."""
    for decoder in DECODERS:
        beside, alone = case.runs[decoder].store, case.clean[decoder]
        assert alone.video_ids == beside.video_ids and alone.rejects == []
        for name in alone.video_ids:
            np.testing.assert_array_equal(beside.features(name), alone.features(name), err_msg=f"{decoder} {name}")
            np.testing.assert_array_equal(beside.times(name), alone.times(name), err_msg=f"{decoder} {name}")
            assert beside.row(name).decoder == alone.row(name).decoder


def check_whole_files_have_all_their_pictures(case: Case) -> None:
    """Judged by ffmpeg: what decodes without complaint, to as many pictures as it was made with.

    Pictures before the first keyframe, and before the first time stamp, are hidden here; damage seldom makes such.
    """
    names = [name for name, entry in case.entries.items() if entry.pictures]
    with ThreadPoolExecutor(2) as threads:
        opinions = list(threads.map(lambda name: ask_ffmpeg(case.entries[name].path), names))
    store, whole, begun_later = case.runs["pyav"].store, 0, 0
    for name, opinion in zip(names, opinions, strict=True):
        if opinion.clean and opinion.pictures == case.entries[name].pictures:
            whole += 1
            assert name in store, (case.entries[name], opinion)
            if store.num_frames(name) != opinion.pictures:
                assert make_plan(case.entries[name].path).num_hidden > 0, (case.entries[name], opinion)
                begun_later += 1
    assert whole >= 10 and begun_later <= whole / 50


def check_files_without_shards(case: Case) -> None:
    """Devices, pipes, names that are no ids: each is features or a reject, and the features are those of the store."""
    names = set(case.asked.videos) | {row.video_id for row in case.asked.rejects}
    assert len(names) == len(case.asked.videos) + len(case.asked.rejects) == len(case.shards.videos)
    for row in case.asked.rejects:
        assert row.reason in set(Reason) and row.reason not in ("decoder-died", "timeout"), row
        assert row.detail and row.detail.isprintable(), row
    store = case.runs["pyav"].store
    path_of = {row.video_id: row.path for row in case.shards.videos if row.status == "ok"}
    for name in store.video_ids:
        features, times = case.asked.videos[path_of[name]]
        np.testing.assert_array_equal(features, store.features(name), err_msg=name)
        np.testing.assert_array_equal(times, store.times(name), err_msg=name)
    for row in store.rejects:
        assert path_of.get(row.video_id) not in case.asked.videos


def check_log(case: Case) -> None:
    """No name commands the terminal, and none passes for a line of ours."""
    for extracted in case.runs.values():
        for line in extracted.ran.log.removesuffix("\n").split("\n"):
            assert line.isprintable(), repr(line)
            assert re.match(r"(\d\d:\d\d:\d\d [IW] |extracting: )", line), repr(line)


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_account,
    check_damage_was_found_here,
    check_nothing_left,
    check_decoders_agree,
    check_neighbours,
    check_whole_files_have_all_their_pictures,
    check_files_without_shards,
    check_log,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_some_damaged_pictures(small: Case, check: Callable[[Case], None]) -> None:
    check(small)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_whole_hostile_corpus(large: Case, check: Callable[[Case], None]) -> None:
    assert len(large.shards.videos) >= 700
    check(large)
