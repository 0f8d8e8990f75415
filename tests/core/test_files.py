"""Atomic publication: whole or not at all."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.core.files import (
    PARTIAL,
    publish_bytes,
    publish_json,
    publish_table,
    publishing,
    publishing_folder,
    read_json,
    read_table,
    remove_partials,
    sha256_bytes,
    sha256_file,
)


def test_published_file_holds_the_content_with_the_normal_file_mode(tmp_path):
    old = os.umask(0o027)
    try:
        publish_bytes(tmp_path / "a" / "x.bin", b"abc")
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "x.bin").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "a" / "x.bin").stat().st_mode) == 0o640


def test_a_body_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path):
    publish_bytes(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError, match="boom"), publishing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("boom")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_an_error_that_names_the_path_and_publishes_nothing(tmp_path):
    script = (
        "import resource, signal, sys\n"
        "from reelkin.core.errors import ReelkinError\n"
        "from reelkin.core.files import publish_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    publish_bytes(sys.argv[1], b'x' * 5000)\n"
        "except ReelkinError as error:\n    print(error)\n"
    )
    target = tmp_path / "big.bin"
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)], check=False, capture_output=True, text=True, timeout=120
    )
    assert f"cannot write {target}" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_process_killed_while_writing_leaves_the_old_content(tmp_path):
    target = tmp_path / "x"
    publish_bytes(target, b"old")
    script = (
        "import os, signal, sys\n"
        "from reelkin.core.files import publishing\n"
        "with publishing(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False, timeout=120)
    assert done.returncode == -9
    assert target.read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if PARTIAL in name], "the partial file is recognisable"


def test_a_published_folder_replaces_the_old_one_whole(tmp_path):
    for content in ("one", "two"):
        with publishing_folder(tmp_path / "model") as temporary:
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path) == ["model"]
    assert os.listdir(tmp_path / "model") == ["two"]
    with pytest.raises(KeyError), publishing_folder(tmp_path / "model") as temporary:
        raise KeyError
    assert os.listdir(tmp_path / "model") == ["two"]


def test_what_else_fails_in_the_body_is_not_called_a_failure_to_write(tmp_path):
    for publish in (publishing, publishing_folder):
        with pytest.raises(FileNotFoundError, match="input"), publish(tmp_path / "x"):
            (tmp_path / "input").read_bytes()
        with pytest.raises(TimeoutError), publish(tmp_path / "x"):
            raise TimeoutError("a server is silent")
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for publish in (publishing, publishing_folder):
        with pytest.raises(ReelkinError, match="cannot write .*file/x"), publish(tmp_path / "file" / "x"):
            pass
    for failing in (OSError(errno.ENOSPC, "No space left"), OSError(errno.EIO, "I/O")):
        with pytest.raises(ReelkinError, match="cannot write .*y: "), publishing(tmp_path / "y"):
            raise failing
    with pytest.raises(ReelkinError, match="cannot write .*y: "), publishing(tmp_path / "y") as temporary:
        (temporary / "no folder").write_bytes(b"")


def test_a_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with publishing_folder(tmp_path / "model") as temporary:
        (temporary / "old").write_text("old")
    rename = os.rename

    def second_fails(source, target):
        if (tmp_path / "model").exists() or (PARTIAL in str(source) and (source / "old").exists()):
            return rename(source, target)
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(ReelkinError, match="cannot write .*model"), publishing_folder(tmp_path / "model") as temporary:
        (temporary / "new").write_text("new")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["old"]


def test_partial_files_of_dead_processes_are_removed_and_nothing_else(tmp_path):
    script = (
        "import os, sys\n"
        "from reelkin.core.files import publishing, publishing_folder\n"
        "with publishing(sys.argv[1] + '/x') as file, publishing_folder(sys.argv[1] + '/y') as folder:\n"
        "    file.write_bytes(b'half')\n"
        "    (folder / 'z').write_bytes(b'half')\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    assert len(os.listdir(tmp_path)) == 2
    foreign = tmp_path / f".x{PARTIAL}00000000-1-00000000"  # of another host
    foreign.write_bytes(b"")
    old = tmp_path / f".x{PARTIAL}00000000-1-11111111"
    old.write_bytes(b"")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    kept = tmp_path / f"mine{PARTIAL}1"
    kept.write_bytes(b"")
    os.utime(kept, (0, 0))
    with publishing(tmp_path / "w") as alive:
        alive.write_bytes(b"")
        remove_partials(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([foreign.name, kept.name, alive.name])
    remove_partials(tmp_path / "nowhere")


def test_tables_and_json_come_back_and_equal_tables_have_equal_bytes(tmp_path):
    table = pa.table({"video_id": ["a", "b"], "bytes": [1, 2]})
    publish_table(tmp_path / "1.parquet", table)
    publish_table(tmp_path / "2.parquet", table)
    assert read_table(tmp_path / "1.parquet").equals(table)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    publish_json(tmp_path / "x.json", {"b": 1, "a": "ö"})
    assert read_json(tmp_path / "x.json") == {"b": 1, "a": "ö"}


def test_json_refuses_not_a_number(tmp_path):
    with pytest.raises(ValueError):
        publish_json(tmp_path / "x.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_missing_or_damaged_json_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ReelkinError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + json.dumps({}).encode())
    with pytest.raises(ReelkinError, match=r"x\.parquet"):
        read_table(tmp_path / "x.parquet")


def test_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    # FIPS 180-2's own example.
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "x")
