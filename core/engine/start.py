"""Starting and leaving the engine."""

from __future__ import annotations

import atexit
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..devices import choose_device
from ..ending import skip_teardown
from ..errors import ReelkinError, UsageError
from .base import Engine
from .deadline import Watchdog
from .environment import Launch, choose_backend, read_launch
from .peers import Channel, machine_identity
from .single import SingleEngine

START_SECONDS = 60.0
"""Ranks may come to the start this far apart (imports, slow disks), even if the deadline is shorter."""

EXIT_SECONDS = 5.0
"""How long a rank that failed may take over its way out of the interpreter."""

_running: list[Engine] = []


@contextmanager
def start(backend: str = "auto", deadline_seconds: float = 300.0, device: str = "auto") -> Iterator[Engine]:
    """Start the engine, yield it, and leave it in step with the other ranks.

    Args:
        backend: "auto" goes by the launcher: horovodrun -> "horovod", torchrun -> "torch", none -> "single".
        deadline_seconds: longest stay in one collective; then the run is ended (see `deadline`).
        device: "cpu", "cuda", or "auto": one GPU per rank if there are any, else the CPU.

    Yields:
        The `Engine`.

    Raises:
        UsageError: the backend is not installed, does not go with the launcher, or there are fewer GPUs than ranks.
        ReelkinError: an engine is already running in this process.

    When the body ends, ranks meet in a last barrier (so long work of rank 0 at the end belongs in
    `Engine.extend_deadline`, too). When it raises, this rank does not wait for anybody: the exception goes on, and the
    other ranks are ended by the launcher, by the carrier's failure or by their deadline. From then on the interpreter's
    shutdown may take `EXIT_SECONDS` before the kernel ends the process, since carriers wait there for ranks that may
    never answer.
    """
    if not deadline_seconds > 0:
        raise UsageError(f"deadline_seconds: must be above 0, got {deadline_seconds}")
    if _running:
        raise ReelkinError(f"{_running[0]} is still running; start the engine once, at the top of the program")
    launch = read_launch()
    engine = _build(choose_backend(backend, launch), launch, deadline_seconds, device)
    _running.append(engine)
    try:
        yield engine
    except BaseException as error:
        _abandon(engine, error)
        raise
    else:
        _close(engine)
    finally:
        _running.remove(engine)


def _build(backend: str, launch: Launch, deadline_seconds: float, device: str) -> Engine:
    if backend == "single":
        return SingleEngine(choose_device(device))
    watchdog = Watchdog(launch.rank, launch.size, deadline_seconds)
    try:
        with watchdog.waiting(0, "the start of the engine", at_least=START_SECONDS):
            engine = _carrier(backend, launch, device)
            watchdog.rank, watchdog.size = engine.rank, engine.size
            if engine.size > 1:
                watchdog.channel = _open_channel(engine, watchdog, launch)
    except BaseException as error:
        _leave_quickly()
        watchdog.leave(error)
        raise
    if engine.size > 1:
        engine._watchdog = watchdog
    else:
        watchdog.close()
    return engine


def _carrier(backend: str, launch: Launch, device: str) -> Engine:
    if backend == "torch":
        from .torch_engine import TorchEngine

        skip_teardown()
        where = choose_device(device, launch.local_rank, launch.local_size)
        return TorchEngine(launch.rank, launch.size, launch.local_rank, where)
    try:
        from .horovod_engine import HorovodEngine
    except ImportError as error:
        raise UsageError(
            f"backend: 'horovod' is not usable here ({error}). Install it with `make setup`, or start under torchrun "
            "(torchrun --nproc-per-node N SCRIPT ...) to use torch.distributed"
        ) from error
    engine = HorovodEngine()
    engine.device = choose_device(device, engine.local_rank, engine.local_size)
    if engine.device.type == "cuda":
        torch.cuda.set_device(engine.device)
    return engine


def _open_channel(engine: Engine, watchdog: Watchdog, launch: Launch) -> Channel:
    channel = Channel(engine.rank, watchdog.position, watchdog.end, watchdog.farewell)
    machines = engine.all_gather_object(machine_identity(), "machines")
    own = channel.listen(local_only=len(set(machines)) == 1, towards=launch.rendezvous)
    entries = engine.all_gather_object(own, "peers")
    channel.connect(entries, engine.broadcast_object(secrets.token_hex(32) if engine.is_main else "", "token"))
    return channel


def _close(engine: Engine) -> None:
    try:
        engine.barrier("the end of the engine")
    except BaseException as error:
        _abandon(engine, error)
        raise
    if engine._watchdog is not None:
        engine._watchdog.close()
    engine._shut_down()


def _abandon(engine: Engine, error: BaseException) -> None:
    if engine.size > 1:
        if engine._watchdog is not None:
            engine._watchdog.leave(error)
        _leave_quickly()


def _leave_quickly() -> None:
    # Horovod shuts down in an exit handler and in static destructors, in step with the other ranks; one that is stopped
    # would keep this one for ever. Exit handlers run last in, first out, so this one sets its alarm before.
    atexit.register(_set_alarm)


def _set_alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, EXIT_SECONDS)
