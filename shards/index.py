"""``shards.json``: which files belong to a folder of shards, how large they are and what their hashes are.

It is written last, and it is the root of all trust in the folder; so it holds a hash of its own content as well, and
is read back only in the very form in which it is written: a changed byte anywhere in it is found on opening.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ReelkinError
from ..core.files import sha256_bytes

FORMAT, VERSION = "reelkin-shards", 1
INDEX_NAME = "shards.json"
MANIFEST_NAME, CLIPS_NAME = "manifest.parquet", "clips.parquet"
TABLES = (MANIFEST_NAME, CLIPS_NAME)
REPAIR = "build the shards again: `shards/build.py` with the same settings replaces what is missing"

_OWN_HASH = "content_sha256"
_SHARD_NAME = re.compile(r"clips-([0-9]{6,9})\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard as ``shards.json`` describes it: name, size in bytes, `archive.structure_sha256`, number of clips."""

    name: str
    bytes: int
    structure_sha256: str
    num_clips: int


@dataclass(frozen=True)
class Index:
    """A checked ``shards.json``.

    Attributes:
        info: its content.
        shards: its shards, in order; no name twice.
        tables: SHA-256 of each table by file name.
        sha256: of the file itself.
    """

    info: dict[str, Any]
    shards: list[ShardEntry]
    tables: dict[str, str]
    sha256: str


def shard_number(name: str) -> int | None:
    """The number in the file name of a shard, or None for any other name."""
    match = _SHARD_NAME.fullmatch(name)
    return int(match[1]) if match else None


def sealed(info: Mapping[str, Any]) -> dict[str, Any]:
    """``info`` with a hash of its own content as its last field; `core.files.publish_json` writes the result."""
    content = {name: value for name, value in info.items() if name != _OWN_HASH}
    return {**content, _OWN_HASH: sha256_bytes(_text(content))}


def _text(info: Mapping[str, Any]) -> bytes:
    """The form in which `core.files.publish_json` writes."""
    return (json.dumps(info, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def read_index(folder: Path) -> Index:
    """Read and check ``folder/shards.json``; says nothing about the files that it names.

    Raises:
        ReelkinError: it is missing, of another version, or was changed; the message says what to do.
    """
    path = folder / INDEX_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ReelkinError(
            f"{folder} holds no finished shards (there is no {INDEX_NAME}); build them with shards/build.py, or let "
            "a stopped build go on by running the same command again"
        ) from None
    except OSError as error:
        raise ReelkinError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        info = json.loads(data)
    except (ValueError, RecursionError):
        raise _changed(path, "it is not valid JSON") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise ReelkinError(f"{path} does not describe shards (format {FORMAT!r} is expected); {REPAIR}")
    if info.get("version") != VERSION:
        raise ReelkinError(
            f"{path} has version {info.get('version')}, this program reads {VERSION}; build the shards again, "
            "or use the version of reelkin that made them"
        )
    try:
        intact = _text(sealed(info)) == data
    except (ValueError, RecursionError):  # not a number, or lists in lists in lists: never written
        intact = False
    if not intact:
        raise _changed(path, f"its content does not fit its {_OWN_HASH}")
    try:
        shards = [_entry(value) for value in info["shards"]]
        tables = {name: _sha256(info["tables"][name]) for name in TABLES}
    except (KeyError, TypeError, ValueError) as error:
        raise _changed(path, f"a field is missing or wrong ({error})") from None
    if len({shard.name for shard in shards}) != len(shards):
        raise _changed(path, "it names a shard twice")
    return Index(info, shards, tables, sha256_bytes(data))


def _entry(value: Any) -> ShardEntry:
    name, size, num_clips = value["name"], value["bytes"], value["num_clips"]
    if not isinstance(name, str) or shard_number(name) is None:
        raise ValueError(f"{name!r} is no shard's name")
    if type(size) is not int or type(num_clips) is not int or size < 0 or num_clips < 1:
        raise ValueError(f"{name} has bytes {size!r} and num_clips {num_clips!r}")
    return ShardEntry(name, size, _sha256(value["structure_sha256"]), num_clips)


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is no SHA-256")
    return value


def _changed(path: Path, why: str) -> ReelkinError:
    return ReelkinError(f"{path} is not as it was written: {why}. Remove it and {REPAIR}")
