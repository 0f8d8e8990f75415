"""Annotation files that are cut, garbled or built otherwise: a listing or a usage error, never anything else."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from reelkin.core.errors import UsageError
from reelkin.tests.helpers.datasets import listed, touch, write

A, B, C = (letter * 11 for letter in "ABC")
SHA, SHB = "a" * 40, "b" * 40
SEGMENT = f"{SHA}.flv,{SHB}.mp4,00:00:01,00:00:02,00:00:03,00:00:04\n"

TEXTS = {
    "fivr": (f"{A}.mp4", {"annotation.json": json.dumps({A: {"ND": [B]}}), "youtube_ids.txt": f"{A}\n{B}\n"}),
    "vcdb": (f"core_dataset/t/{SHA}.flv", {"annotation/t.txt": SEGMENT * 3}),
    "cc_web_video": (
        "1_1_Y.flv",
        {
            "Video_List.txt": "1\t1\tYouTube\t1_1_Y.flv\t\n2\t1\tGoogle\t1_2_G.flv\t\n",
            "Seed.txt": "1\t1\n",
            "GT_1.rst": "1 E\n2 S\n",
        },
    ),
    "evve": (f"{A}.mp4", {"annots/e.dat": f"{A} 1 query\n{B} 1 database\n{C} -1 database\n"}),
    "svd": ("1.mp4", {"test_groundtruth": "1.mp4 2.mp4 1\n1.mp4 3.mp4 0\n", "query-id": "1.mp4\n"}),
    "ucf101": (
        "v_ApplyEyeMakeup_g08_c01.avi",
        {"classInd.txt": "1 ApplyEyeMakeup\n", "trainlist01.txt": "A/v_ApplyEyeMakeup_g08_c01.avi 1\n" * 2},
    ),
    "hmdb51": ("pick/x_pick_f_nm_np1_fr_bad_1.avi", {"pick_test_split1.txt": "x_pick_f_nm_np1_fr_bad_1.avi 1 \n" * 2}),
    "kinetics": (
        f"train/a/{A}_000001_000011.mp4",
        {
            "train.csv": f'label,youtube_id,time_start,time_end,split\n"a b",{A},1,11,train\n',
            "val_list.txt": f"a/{A}_000001_000011.mp4 3\n",
        },
    ),
}

PICKLES: dict[str, tuple[str, str, Any]] = {
    "fivr": (
        f"{A}.mp4",
        "fivr.pickle",
        {
            "5k": {"queries": [A], "database": {B}},
            "200k": {"queries": [A], "database": {B, C}},
            "annotation": {A: {"ND": [B]}},
        },
    ),
    "vcdb": (
        f"core_dataset/t/{SHA}.flv",
        "vcdb.pickle",
        {"video_pairs": [{"videos": [SHA, SHB], "overlap": [1.0, 0.5]}], "index": [SHA, SHB, A], "negs": [A]},
    ),
    "cc_web_video": (
        "1_1_Y.flv",
        "cc_web_video.pickle",
        {
            "index": {"1/1_1_Y": 1, "1/1_2_G": 2},
            "queries": ["1/1_1_Y"],
            "ground_truth": [{1: "E", 2: "S"}],
            "excluded": [{2}],
        },
    ),
    "evve": (
        f"{A}.mp4",
        "evve.pickle",
        {"annotation": {"e": ({A}, {B}, set())}, "queries": [A], "database": [B]},
    ),
}

INSERTED = [b"\n", b"\r", b",", b"\t", b" ", b"\0", b'"', b"\xff", b"9" * 5000, b"-1", b"/", b"\xe2\x80\xa8", b"[" * 50,
            b"\xd9\xa3"]  # fmt: skip
JUNK = [None, 3, -1.5, float("inf"), "x", "\udcff", b"b", [], {}, set(), [1], {"a": 1}, (1, 2), {A}, [[A]], 10**30]


def garbled(source: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(source.randint(1, 5)):
        place = source.randrange(len(data) + 1)
        match source.randrange(5):
            case 0 if data:
                data[place % len(data)] = source.randrange(256)
            case 1:
                data[place:place] = source.choice(INSERTED)
            case 2:
                del data[place : place + source.randrange(20)]
            case 3:
                data += data[:place]
            case _:
                del data[place:]
    return bytes(data)


def rebuilt(source: random.Random, content: Any) -> Any:
    if source.random() < 0.12:
        return source.choice(JUNK)
    if isinstance(content, dict):
        return {
            source.choice([key] * 9 + ["other"]): rebuilt(source, value)
            for key, value in content.items()
            if source.random() > 0.08
        }
    if isinstance(content, list | tuple):
        return type(content)(rebuilt(source, value) for value in content)
    if isinstance(content, set) and source.random() < 0.3:
        return content | {source.choice([3, None, "x", b"b"])}
    return content


def lists_or_explains(root: Path, layout: str) -> bool:
    try:
        listing = listed(root, layout)
    except UsageError as error:
        assert str(root) in str(error)  # the message names the file
        return False
    for table in listing.tables.values():
        table.validate(full=True)
    return True


@pytest.mark.parametrize("layout", TEXTS)
def test_garbled_lists_are_read_or_refused(layout: str, tmp_path: Path) -> None:
    video, texts = TEXTS[layout]
    touch(tmp_path, video)
    read = 0
    for seed in range(60):
        source = random.Random(f"{layout} {seed}")
        for name, text in texts.items():
            write(tmp_path / name, garbled(source, text.encode()) if source.random() < 0.7 else text)
        read += lists_or_explains(tmp_path, layout)
    assert 0 < read < 60  # both ends were seen


@pytest.mark.parametrize("layout", PICKLES)
def test_pickles_built_otherwise_are_read_or_refused(layout: str, tmp_path: Path) -> None:
    video, name, content = PICKLES[layout]
    touch(tmp_path, video)
    read = 0
    for seed in range(120):
        source = random.Random(f"{layout} {seed}")
        if source.random() < 0.8:
            write(tmp_path / name, pickle.dumps(rebuilt(source, content)))
        else:
            write(tmp_path / name, garbled(source, pickle.dumps(content)))
        read += lists_or_explains(tmp_path, layout)
    assert 0 < read < 120
