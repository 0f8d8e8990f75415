"""What the launcher says through environment variables; no other module of the engine reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from ..launched import launcher_present

Backend = Literal["horovod", "torch", "single"]


@dataclass(frozen=True)
class Launch:
    """How this process was started."""

    launcher: Literal["horovodrun", "torchrun", "none"]
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    rendezvous: str = ""
    """A host that every rank can reach, or ""."""


def read_launch() -> Launch:
    """Read the launcher's variables.

    Raises:
        UsageError: a variable is missing or not a number.
    """
    found = launcher_present()
    if found is None:
        return Launch("none")
    rank, size = _number(found.rank, found.launcher), _number(found.size, found.launcher)
    local_rank, local_size = _number(found.local_rank, found.launcher), _number(found.local_size, found.launcher)
    return Launch(found.launcher, rank, size, local_rank, local_size, os.environ.get(found.host, ""))


def _number(variable: str, launcher: str) -> int:
    value = os.environ.get(variable, "")
    if not value.isdigit():
        raise UsageError(f"environment variable {variable}: want a number, as {launcher} sets it, got {value!r}")
    return int(value)


def choose_backend(wanted: str, launch: Launch) -> Backend:
    """The backend that ``wanted`` ("auto" or a name) means under ``launch``.

    Raises:
        UsageError: unknown name, or a launcher that does not go with it.
    """
    natural: Backend = {"horovodrun": "horovod", "torchrun": "torch", "none": "single"}[launch.launcher]  # type: ignore
    if wanted == "auto":
        return natural
    if wanted == natural or (wanted == "horovod" and launch.launcher == "none"):
        return wanted  # type: ignore[return-value]
    if wanted == "torch":
        raise UsageError("backend: 'torch' must be started by its launcher: torchrun --nproc-per-node N SCRIPT ...")
    if wanted == "horovod":
        raise UsageError(f"backend: 'horovod' was started by {launch.launcher}; use horovodrun -np N SCRIPT ...")
    if wanted == "single":
        if launch.size == 1:
            return "single"
        raise UsageError(
            f"backend: 'single' under {launch.launcher} with {launch.size} processes would make each of them rank 0; "
            "start the script alone, or choose 'auto'"
        )
    raise UsageError(f"backend: 'auto', 'horovod', 'torch' or 'single', got {wanted!r}")
