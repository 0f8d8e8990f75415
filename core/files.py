"""Files that appear whole or not at all.

A file is written under a temporary name in its own folder, flushed to the disk, renamed, and the folder is flushed:
after a crash the final name holds either the old content or the new one. Temporary names hold ``.partial-``, so that a
reader, a pattern such as ``*.tar`` and a clean-up can tell them apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ReelkinError

PARTIAL = ".partial-"


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}{PARTIAL}{os.getpid()}-{uuid.uuid4().hex[:8]}")


def is_partial(path: Path) -> bool:
    """Whether a file or folder bears one of the temporary names of this module."""
    return path.name.startswith(".") and PARTIAL in path.name


def _umask() -> int:
    # The process's umask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def publishing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; what the body writes there becomes ``path`` when the body ends without an error.

    Args:
        path: final name; its folder is made when missing. An existing file is replaced.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        ReelkinError: the disk is full or the folder cannot be written; the message names ``path``.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise ReelkinError(
            f"cannot write {path}: {error.strerror or error}. Make room or check the folder's permissions, then run "
            "the same command again: what was published before is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def publishing_folder(path: str | Path) -> Iterator[Path]:
    """Like `publishing`, for a folder: the body fills a temporary folder, which is then renamed to ``path``.

    An existing folder of that name is moved aside and removed once the new one stands under its name.

    Raises:
        ReelkinError: as `publishing`.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    replaced = _temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _flush(file)
        _flush(temporary)
        if path.exists():
            os.rename(path, replaced)
        os.rename(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise ReelkinError(
            f"cannot write the folder {path}: {error.strerror or error}. Make room or check the permissions, then run "
            "the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def publish_bytes(path: str | Path, data: bytes) -> None:
    """Publish ``data`` as ``path``. Raises ReelkinError when it cannot be written."""
    with publishing(path) as temporary:
        temporary.write_bytes(data)


def publish_text(path: str | Path, text: str) -> None:
    """Publish ``text`` as UTF-8. Undecodable bytes of file names (surrogates) are written back as they were."""
    publish_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def publish_json(path: str | Path, value: Any) -> None:
    """Publish ``value`` as indented JSON with keys in the order given; not a number and infinity are refused."""
    publish_text(path, json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n")


def publish_table(path: str | Path, table: pa.Table) -> None:
    """Publish ``table`` as parquet; the same table gives the same bytes."""
    with publishing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises ReelkinError with the path when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ReelkinError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ReelkinError(f"{path} is not valid JSON ({error}); remove it and make it again") from error


def read_table(path: str | Path) -> pa.Table:
    """Read a parquet file. Raises ReelkinError with the path when it is missing or damaged."""
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ReelkinError(f"cannot read the table {path}: {error}; remove it and make it again") from error


def sha256_bytes(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits; memory use does not depend on the size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
