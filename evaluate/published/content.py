"""The raw content of annotation files: the shipped ones (JSON, xz) and the published originals (pickle, JSON, text)."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ...core.errors import ReelkinError, UsageError
from ...core.files import sha256_bytes, sha256_file
from ...shards.sources.annotation_files import read_json, read_pickle
from .annotation import Source

FORMAT, VERSION = "reelkin-annotation", 1
MAX_UNPACKED = 256 << 20
"""Bytes of text; the largest that is shipped has a fiftieth of it."""


@dataclass(frozen=True)
class Content:
    """What a file holds, as dicts, lists, strings and numbers, and where it is from; ``path`` for messages."""

    value: Any
    source: Source
    path: Path


@lru_cache(maxsize=2)
def shipped(name: str) -> Content:
    """An annotation that comes with the package, by the name of its file without ".json.xz"; not to be changed.

    Raises:
        ReelkinError: it is not there or damaged: the installation is.
    """
    file = resources.files(__package__) / "files" / f"{name}.json.xz"
    path = Path(str(file))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ReelkinError(f"the annotation {path.name} of this installation cannot be read: {error}") from error
    return Content(_unpacked(data, path), Source(path.name, sha256_bytes(data)), path)


def read_content(path: str | Path, *keys: str) -> Content:
    """An annotation file of the user's: ``.json.xz`` as shipped, ``.json``, or a published pickle.

    Args:
        path: the file.
        keys: what a pickle or a shipped file must hold at its top.

    Raises:
        UsageError: the file is none of these, is damaged, asks a pickle for more than sets, or lacks a key.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.is_file():
        raise UsageError(f"--annotations {path} is no file")
    if name.endswith((".pickle", ".pkl")):
        value: Any = read_pickle(path, *keys)
    elif name.endswith(".json.xz"):
        value = _unpacked(path.read_bytes(), path)
        if not isinstance(value, dict) or not set(keys) <= set(value):
            raise UsageError(f"--annotations {path} should hold {', '.join(keys)}")
    elif name.endswith(".json"):
        value = read_json(path)
    else:
        raise UsageError(f"--annotations {path} is none of .json, .json.xz, .pickle and .pkl")
    return Content(value, Source(path.name, sha256_file(path)), path)


def packed(value: Any, facts: dict[str, str]) -> bytes:
    """A file to ship: JSON with its ``facts`` (source, licence, sha256 of the original), xz; same value, same bytes."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **facts, "content": value}, separators=(",", ":"))
    return lzma.compress(text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME)


def plain(value: Any) -> Any:
    """Sets become sorted lists, tuples lists, keys strings: what JSON can hold, with nothing lost."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _unpacked(data: bytes, path: Path) -> Any:
    try:
        unpacker = lzma.LZMADecompressor()
        text = unpacker.decompress(data, MAX_UNPACKED)
        if not unpacker.eof:  # a small file can unpack to any size
            raise ValueError(f"it is cut off, or unpacks to more than {MAX_UNPACKED:,} bytes")
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}")
        if value["version"] != VERSION:
            raise ValueError(f"its version is {value['version']!r}; this program reads {VERSION}")
        return value["content"]
    except (lzma.LZMAError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is no annotation as shipped ({error}); convert it from the original again") from error
