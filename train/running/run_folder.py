"""The folder of a training run: what was asked for, what happened, checkpoints, and how it ended.

    config.json               the resolved configuration, versions, git commit, hashes of the inputs
    metrics.jsonl             a JSON object per logged step
    checkpoints/step-000123/  state.pt, meta.json and COMPLETE (sha256 of both); a folder without it is not a checkpoint
    LAST                      name of the newest checkpoint
    best/                     the model of the best validation so far
    model/                    the trained model, once the run is complete
    outcome.json              exit code, reason, steps; "running" from the start on, so that a killed run shows

Only rank 0 touches it; other ranks' failures reach it through the engine. States are read with ``weights_only=True``: a
checkpoint cannot run code.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import ReelkinError, UsageError
from ...core.files import (
    publish_json,
    publish_text,
    publishing_folder,
    read_json,
    remove_partials,
    sha256_bytes,
    sha256_file,
)

log = logging.getLogger("reelkin.train")
_STEP = re.compile(r"step-(\d+)")
LOCK_SECONDS = 30.0
"""How long a start waits for another run in its folder: of a job that was killed, processes may live on for seconds."""


class RunFolder:
    """A run's folder at ``path``; made when first written to.

    Attributes:
        path, checkpoints, model, best: folders.
        announced: whether `announce` was called: from then on the outcome is this run's to write.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.best = self.path / "best"
        self.announced = False
        self._lock: int | None = None
        self._ending = threading.RLock()
        self._ended = False

    # -- one run at a time

    def lock(self, seconds: float = LOCK_SECONDS) -> None:
        """Keep other processes from training in this folder, until this process ends or `unlock`.

        The lock is the kernel's: it goes with the process, however that ends.

        Raises:
            UsageError: another process holds it, after ``seconds`` of waiting.
            ReelkinError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ReelkinError(f"cannot write the run folder {self.path}: {error.strerror}") from error
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sign()
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    holder = os.pread(self._lock, 200, 0).decode(errors="replace") or "another process"
                    self.unlock()
                    raise UsageError(
                        f"{self.path} is in use: {holder} is training there. End it, or give another --output"
                    ) from None
                time.sleep(0.1)
            except OSError as error:  # a file system without locks
                log.warning("%s cannot be locked (%s); see to it that one run at a time uses it", self.path, error)
                return

    def _sign(self) -> None:
        """Say in the lock who holds it; a disk too full for that keeps nobody from training."""
        assert self._lock is not None
        with suppress(OSError):
            os.truncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()} on {platform.node()}".encode(), 0)

    def unlock(self) -> None:
        """Let other processes train in this folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- checkpoints

    def save_checkpoint(self, step: int, state: Mapping[str, Any], meta: Mapping[str, Any], keep: int) -> Path:
        """Publish a checkpoint, point LAST at it, then remove all but the newest ``keep`` up to this step.

        Checkpoints of later steps are removed too: they are damaged, or of a future that this run left.

        Args:
            step: updates done.
            state: tensors, plain values, and dicts and lists of them.
            meta: JSON-able; read back without loading the state.

        Raises:
            ReelkinError: it cannot be written (a full disk); earlier checkpoints stand as they did.
        """
        folder = self.checkpoints / f"step-{step:06d}"
        buffer = io.BytesIO()  # torch's own writing to a file turns a full disk into an error without a name
        torch.save(dict(state), buffer)
        data = buffer.getbuffer()  # no copy: it may be gigabytes
        with publishing_folder(folder) as temporary:
            (temporary / "state.pt").write_bytes(data)
            publish_json(temporary / "meta.json", {**meta, "step": step})
            sums = {"state.pt": sha256_bytes(data), "meta.json": sha256_file(temporary / "meta.json")}
            publish_json(temporary / "COMPLETE", sums)
        publish_text(self.path / "LAST", folder.name + "\n")
        steps = self._steps()
        kept = [each for each in steps if each <= step][-keep:]
        for old in set(steps) - set(kept):
            try:
                shutil.rmtree(self.checkpoints / f"step-{old:06d}")
            except OSError as error:  # an old checkpoint too many harms nobody; the run goes on
                log.warning("cannot remove the old checkpoint of step %d: %s", old, error)
        return folder

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint: the one that LAST names, else the newest whose files match COMPLETE; None
        where none was ever published.

        Raises:
            ReelkinError: there were checkpoints and none is whole: to begin again would overwrite what is left.
        """
        names = dict.fromkeys(self._named() + [f"step-{step:06d}" for step in reversed(self._steps())])
        for name in names:
            if _STEP.fullmatch(name) and self._is_complete(self.checkpoints / name):
                return self.checkpoints / name
            log.warning("%s is damaged or incomplete; looking for an older checkpoint", self.checkpoints / name)
        if names:
            raise ReelkinError(
                f"{self.path} had checkpoints ({', '.join(names)}), and none of them is there and whole. Put a copy "
                f"back, or give another --output; to train from the start in this folder, remove {self.path / 'LAST'} "
                f"and {self.checkpoints}"
            )
        return None

    def _named(self) -> list[str]:
        """What LAST says: one name, or none."""
        try:
            return [(self.path / "LAST").read_text(errors="replace").strip()[:100]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReelkinError(f"cannot read {self.path / 'LAST'}: {error.strerror}; remove it") from error

    @staticmethod
    def read_meta(folder: Path) -> dict[str, Any]:
        """A checkpoint's meta.json: what was given to `save_checkpoint`, and the step."""
        return dict(read_json(folder / "meta.json"))

    def _steps(self) -> list[int]:
        if not self.checkpoints.is_dir():
            return []
        try:
            entries = [entry.name for entry in self.checkpoints.iterdir() if (entry / "COMPLETE").is_file()]
        except OSError as error:
            raise ReelkinError(f"cannot read {self.checkpoints}: {error.strerror}") from error
        return sorted(int(match[1]) for name in entries if (match := _STEP.fullmatch(name)))

    @staticmethod
    def _is_complete(folder: Path) -> bool:
        try:
            sums = read_json(folder / "COMPLETE")
            return {"state.pt", "meta.json"} <= set(sums) and all(
                sha256_file(folder / name) == digest for name, digest in sums.items()
            )
        except (ReelkinError, OSError, AttributeError, TypeError):
            return False

    # -- metrics and outcome

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl; what is not finite is written as null.

        Raises:
            ReelkinError: it cannot be written (a full disk); no part of the line is left.
        """
        clean = {
            key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()
        }
        line = (json.dumps(clean) + "\n").encode()
        path = self.path / "metrics.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(path, "ab", buffering=0) as file:
                before = file.tell()
                if file.write(line) != len(line):  # the last bytes of the disk were taken
                    file.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise ReelkinError(
                f"cannot write {path}: {error.strerror}. Make room or check the permissions, then run the same command "
                "again: it goes on from the last checkpoint"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl; lines that are none, such as a last one cut off by a crash, are passed over."""
        path = self.path / "metrics.jsonl"
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise ReelkinError(f"cannot read {path}: {error.strerror}; make it readable, or move it away") from error
        rows: list[dict[str, Any]] = []
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def truncate_metrics(self, step: int, validated: bool = True) -> None:
        """Drop rows of steps after ``step``, and its validation unless ``validated``: they will be made again."""
        if not (self.path / "metrics.jsonl").exists():
            return
        kept = [row for row in self.metrics() if row.get("step", 0) <= step]
        if not validated:
            kept = [row for row in kept if row.get("step", 0) < step or "validation" not in row]
        publish_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    def announce(self, config: Mapping[str, Any]) -> None:
        """This run begins: write config.json and "running", and remove what killed runs left half written."""
        for folder in (self.path, self.checkpoints):
            remove_partials(folder)
        publish_json(self.path / "config.json", dict(config))
        self.write_outcome(None, "running")
        self.announced = True

    def write_failure(self, exit_code: int, reason: str) -> None:
        """Say that the run failed, unless it never began and the outcome is that of an earlier run.

        A disk too full for this is no failure of its own: the one it was called for goes on to the user.
        """
        if self.announced or not (self.path / "outcome.json").exists():
            try:
                self.write_outcome(exit_code, reason)
            except ReelkinError as error:
                log.warning("%s", error)

    def note_failure(self, exit_code: int, reason: str) -> None:
        """As `write_failure`, of another rank, and before this one feels it; called from another thread.

        The first such word stands, since the next rank's may be its consequence, until this process writes how the run
        ended; after that none counts.
        """
        with self._ending:
            if not self._ended:
                self.write_failure(exit_code, reason)
                self._ended = True

    def write_outcome(self, exit_code: int | None, reason: str, **facts: Any) -> None:
        """Say how the run stands; ``exit_code`` None while it is running."""
        with self._ending:
            if exit_code is None and self._ended:
                return
            self._ended = exit_code is not None
            publish_json(self.path / "outcome.json", {"exit_code": exit_code, "reason": reason, **facts})


def versions() -> dict[str, str]:
    """Versions of what shapes a run's numbers, and the git commit of the code if it runs from a clone."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    root = Path(__file__).resolve().parents[2]
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        inside = (root / ".git").exists() and done.returncode == 0
        found["git_commit"] = done.stdout.strip() if inside else "unknown"
    except (OSError, subprocess.SubprocessError):
        found["git_commit"] = "unknown"
    return found
