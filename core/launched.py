"""The variables by which a launcher tells a process who it is. Light: the command lines need it before torch."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple


class LauncherVariables(NamedTuple):
    """The environment variables of one launcher."""

    launcher: Literal["horovodrun", "torchrun"]
    rank: str
    size: str
    local_rank: str
    local_size: str
    host: str
    """A host that every rank can reach; "" where the launcher names none."""

    @property
    def present(self) -> bool:
        """Whether this launcher started the process: rank and size are both there."""
        return self.rank in os.environ and self.size in os.environ


LAUNCHERS = (
    LauncherVariables(
        "horovodrun",
        "HOROVOD_RANK",
        "HOROVOD_SIZE",
        "HOROVOD_LOCAL_RANK",
        "HOROVOD_LOCAL_SIZE",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR",
    ),
    LauncherVariables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"),
    LauncherVariables(
        "horovodrun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "",
    ),
)
"""In the order in which they are asked. ``horovodrun`` over gloo sets HOROVOD_RANK; over MPI it is Open MPI that sets
its own."""


def launcher_present() -> LauncherVariables | None:
    """The launcher that started this process, or None when it was started alone."""
    return next((variables for variables in LAUNCHERS if variables.present), None)


def launched_rank() -> int:
    """This process's rank as its launcher (horovodrun, mpirun, torchrun) gave it; 0 when started alone."""
    variables = launcher_present()
    value = os.environ[variables.rank] if variables else ""
    return int(value) if value.isdigit() else 0
