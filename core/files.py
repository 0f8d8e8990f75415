"""Files that appear whole or not at all.

A file is written under a temporary name in its own folder, flushed to the disk, renamed, and the folder is flushed:
after a crash the final name holds either the old content or the new one. Temporary names begin with a dot, hold
``.partial-`` and say which process writes them, so that a reader, a pattern such as ``*.tar`` and `remove_partials` can
tell them apart.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ReelkinError, UsageError

PARTIAL = ".partial-"
_DAY_SECONDS = 86400.0
_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)


def _host() -> str:
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of ``path`` that `remove_partials` removes when this process is gone."""
    return path.with_name(f".{path.name[:100]}{PARTIAL}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def is_partial(path: Path) -> bool:
    """Whether a file or folder bears one of the temporary names of this module."""
    return path.name.startswith(".") and PARTIAL in path.name


def remove_partials(folder: str | Path) -> None:
    """Remove what killed processes left half written directly in ``folder``.

    Only names of this module are touched: those whose process ran on this host and is gone, and those of any host that
    were not written to for a day.
    """
    folder = Path(folder)
    for path in folder.glob(f".*{PARTIAL}*") if folder.is_dir() else ():
        try:
            if not _is_abandoned(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError:  # another process cleans up too, or it is not ours to remove; it does no harm
            continue


def _is_abandoned(path: Path) -> bool:
    if time.time() - path.lstat().st_mtime > _DAY_SECONDS:
        return True
    written_by = re.fullmatch(r"([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}", path.name.rpartition(PARTIAL)[2])
    if written_by is None or written_by[1] != _host():
        return False
    try:
        os.kill(int(written_by[2]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # alive, another user's
        return False
    return False


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
def _writing(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReelkinError(f"cannot write {path}: {error.strerror or error}. {advice}") from error


@contextmanager
def _body(path: Path, advice: str, temporary: Path) -> Iterator[None]:
    """Around the caller's part: only what is about the disk or about ``temporary`` is a failure to write ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS and temporary.name.rpartition(PARTIAL)[2] not in str(error):
            raise
        raise ReelkinError(f"cannot write {path}: {error.strerror or error}. {advice}") from error
    except Exception as error:
        # What is written in Rust (safetensors) has errors of its own; the system's number stands in the message.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None or int(number[1]) not in _DISK_ERRORS:
            raise
        raise ReelkinError(f"cannot write {path}: {os.strerror(int(number[1]))}. {advice}") from error


@contextmanager
def publishing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; what the body writes there becomes ``path`` when the body ends without an error.

    Args:
        path: final name; its folder is made when missing. An existing file is replaced.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        ReelkinError: the disk is full or the folder cannot be written; the message names ``path``. What else goes wrong
            in the body (its input cannot be read) is raised as it is.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    advice = "Make room or check the permissions, then run the same command again: what was published before is kept"
    try:
        with _writing(path, advice):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _body(path, advice, temporary):
            yield temporary
        with _writing(path, advice):
            os.chmod(temporary, 0o666 & ~_umask())
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def publishing_folder(path: str | Path) -> Iterator[Path]:
    """Like `publishing`, for a folder: the body fills a temporary folder, which is then renamed to ``path``.

    An existing folder of that name is moved aside, and removed once the new one stands under its name. These are two
    renames: a crash between them leaves no ``path``, but the old and the new folder, both whole, under temporary names
    beside it (until `remove_partials`). Where the second rename fails the old folder is moved back.

    Raises:
        ReelkinError: as `publishing`.
    """
    path = Path(path)
    temporary, replaced = temporary_beside(path), temporary_beside(path)
    advice = "Make room or check the permissions, then run the same command again"
    try:
        with _writing(path, advice):
            temporary.mkdir(parents=True)
        with _body(path, advice, temporary):
            yield temporary
        with _writing(path, advice):
            for file in sorted(temporary.rglob("*")):
                _flush(file)
            _flush(temporary)
            if path.exists():
                os.rename(path, replaced)
            try:
                os.rename(temporary, path)
            except BaseException:
                if replaced.exists():
                    os.rename(replaced, path)
                raise
            _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def refuse_overwriting(outputs: Iterable[Path], inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse, before any work, to write over what is read.

    Args:
        outputs: files that will be written.
        inputs: by flag; what is not given or not there is passed over.

    Raises:
        UsageError: one of the outputs is one of the inputs, under whatever name.
    """
    there = {flag: Path(given) for flag, given in inputs.items() if given and os.path.exists(given)}
    for output in outputs:
        for flag, given in there.items():
            if output.exists() and output.samefile(given):
                raise UsageError(f"{output} would be written over {flag} {given}; choose another --output")


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


def sha256_bytes(data: bytes | memoryview) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits; memory use does not depend on the size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
