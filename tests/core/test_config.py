"""Command lines: what a user sees and which exit code ends the command."""

import mmap
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from reelkin.core.config import as_dict, command, launched_rank, parse
from reelkin.core.engine.environment import read_launch
from reelkin.core.errors import DataError, ExitCode, Reason, ReelkinError, UsageError
from reelkin.core.launched import LAUNCHERS


@dataclass(frozen=True, kw_only=True)
class Config:
    """Build things."""

    videos: list[Path]
    """Files to read."""
    shard_bytes: int = 100
    """Size of a shard in bytes; at least 1."""
    dry_run: bool = False
    """Only say what would be done."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-bytes {self.shard_bytes}: a shard holds at least 1 byte; write 100")


def read(*argv: str) -> Config:
    return parse(Config, argv, prog="build", example="build --videos a.mp4")


def test_flags_are_accepted_with_dashes_and_with_underscores():
    expected = Config(videos=[Path("a"), Path("b")], shard_bytes=7, dry_run=True)
    assert read("--videos", "a", "b", "--shard-bytes", "7", "--dry-run") == expected
    assert read("--videos", "a", "b", "--shard_bytes", "7", "--dry_run") == expected


def test_without_arguments_it_says_what_is_missing_and_shows_a_line_that_runs(capsys):
    with pytest.raises(SystemExit) as stop:
        read()
    assert stop.value.code == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "--videos" in said and "build --videos a.mp4" in said


def test_help_shows_every_field_and_the_example_and_exits_with_0(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == ExitCode.OK
    said = capsys.readouterr().out
    assert "Size of a shard in bytes" in said and "build --videos a.mp4" in said


@pytest.mark.parametrize("argv", [["--videos", "a", "--shard-bytes", "0"], ["--videos", "a", "--shard-bytes", "many"]])
def test_a_wrong_value_is_named_and_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        read(*argv)
    assert stop.value.code == ExitCode.USAGE
    assert "shard-bytes" in capsys.readouterr().err


def test_an_unknown_flag_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--videos", "a", "--shard-byte", "3")
    assert stop.value.code == ExitCode.USAGE
    assert "--shard-byte" in capsys.readouterr().err


def test_only_the_first_of_many_ranks_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        read()
    assert stop.value.code == ExitCode.USAGE
    assert capsys.readouterr().err == ""


def clear_launcher(monkeypatch):
    for variables in LAUNCHERS:
        for name in variables[1:5]:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variables", LAUNCHERS, ids=lambda variables: variables.rank)
def test_command_lines_and_engine_agree_on_who_is_launched(variables, monkeypatch):
    clear_launcher(monkeypatch)
    monkeypatch.setenv(variables.rank, "1")  # alone: left over in some shell, and no launch
    assert launched_rank() == read_launch().rank == 0
    for name in (variables.size, variables.local_rank, variables.local_size):
        monkeypatch.setenv(name, "2")
    assert launched_rank() == read_launch().rank == 1


def test_a_message_with_a_file_name_that_is_no_text_is_printed():
    script = (
        "from reelkin.core.config import command\nimport sys\n"
        "from reelkin.core.errors import ReelkinError\n"
        "@command\ndef main(argv):\n"
        "    print('reading', 'a\\udcff.mp4')\n"
        "    raise ReelkinError('cannot read a\\udcff.mp4')\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (1, "reading a\\udcff.mp4\n")
    assert done.stderr == "error: cannot read a\\udcff.mp4\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--fps -1: must be above 0"), ExitCode.USAGE),
        (ReelkinError("disk full"), ExitCode.FAILED),
        (DataError(Reason.DAMAGED, "bad packet"), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.STOPPED),
        (MemoryError(), ExitCode.FAILED),
    ],
)
def test_what_a_stage_raises_becomes_one_line_and_an_exit_code(error, code, capsys):
    @command
    def main(argv):
        raise error

    assert main([]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_fault_of_ours_shows_its_traceback():
    script = (
        "from reelkin.core.config import command\nimport sys\n"
        "@command\ndef main(argv): return {}['x']\nsys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=dict(os.environ), timeout=60
    )
    assert done.returncode == 1 and "KeyError" in done.stderr and "Traceback" in done.stderr


def test_a_configuration_becomes_plain_values():
    class Colour(Enum):
        RED = "red"

    assert as_dict(read("--videos", "a")) == {"videos": ["a"], "shard_bytes": 100, "dry_run": False}
    assert as_dict({"c": Colour.RED, "t": (1, Path("x"))}) == {"c": "red", "t": [1, "x"]}


def test_every_reject_reason_explains_itself():
    assert all(len(reason.meaning) > 10 for reason in Reason)
    assert len({reason.meaning for reason in Reason}) == len(Reason)


def test_a_command_started_with_closed_streams_runs_all_the_same() -> None:
    script = """
import sys
from reelkin.core.config import command

@command
def main(argv=None):
    print("progress", file=sys.stderr)
    return 3 + sys.stderr.isatty() + sys.stdout.isatty()

sys.exit(main())
"""
    words = ["bash", "-c", 'exec "$@" >&- 2>&-', "bash", sys.executable, "-c", script]
    assert subprocess.run(words, timeout=60).returncode == 3


def test_a_command_that_a_signal_ends_says_where_it_was(tmp_path: Path) -> None:
    # A file that shrinks under its mapping stands for a disk that fails under it: no exception, only SIGBUS.
    script = """
import mmap, os, sys
from reelkin.core.config import command

def read_block(mapped):
    return mapped[0]

@command
def main(argv=None):
    with open(argv[0], "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        os.truncate(argv[0], 0)
        return read_block(mapped)

sys.exit(main(sys.argv[1:]))
"""
    path = tmp_path / "block"
    path.write_bytes(bytes(mmap.PAGESIZE))
    ended = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in ended.stderr and "in read_block" in ended.stderr
