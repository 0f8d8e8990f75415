"""The engine's parts without a launcher: the side channel, the deadline, the choice of a backend, Adasum, packing."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch
from torch import nn

from reelkin.core.engine import start
from reelkin.core.engine.adasum import adasum, adasum_pair
from reelkin.core.engine.deadline import RankLost, Watchdog
from reelkin.core.engine.environment import Launch, choose_backend, read_launch
from reelkin.core.engine.peers import Channel, Peer, machine_identity, process_start
from reelkin.core.engine.plain import empty_tensors, pack, unpack
from reelkin.core.engine.state import digest
from reelkin.core.errors import ReelkinError, UsageError

LAUNCHER_VARIABLES = ("HOROVOD_RANK", "HOROVOD_SIZE", "RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK")


@pytest.fixture
def pair() -> Any:
    """Two connected channels (ranks 0 and 1) and the list of reasons for which rank 1 was told to end."""
    ended: list[str] = []
    channels = [
        Channel(0, lambda: {"at": "zero"}, ended.append),
        Channel(1, lambda: {"at": "one"}, ended.append),
    ]
    entries = [channel.listen(local_only=True, towards="") for channel in channels]
    for channel in channels:
        channel.connect(json.loads(json.dumps(entries)), "the token")
    yield channels, ended, entries
    for channel in channels:
        channel.close()


def wait_for(condition: Any) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


def test_a_peer_says_where_it_is_and_takes_the_word_to_end(pair: Any) -> None:
    (zero, one), ended, _ = pair
    assert zero.ask("where", [1], 2.0) == {1: {"at": "one"}}
    assert one.ask("where", [0], 2.0) == {0: {"at": "zero"}}
    zero.ask("end", [1], 2.0, "because")
    assert wait_for(lambda: ended == ["because"])


def test_why_a_rank_left_is_taken_down_and_told_before_it_goes_and_consequences_are_not() -> None:
    told: list[tuple[str, bool]] = []
    dogs = [Watchdog(rank, 3, 60.0) for rank in range(3)]
    for rank, dog in enumerate(dogs):
        dog.tell = lambda reason, usage: told.append((reason, usage))
        dog.channel = Channel(rank, dog.position, dog.end, dog.farewell)
    channels = [dog.channel for dog in dogs if dog.channel]
    entries = [channel.listen(local_only=True, towards="") for channel in channels]
    for channel in channels:
        channel.connect(entries, "t")
    try:
        dogs[2].leave(UsageError("no such \u00e4 \U0001f600" + 5000 * "\U0001f600"))
        name = f"rank 2 (host {socket.gethostname()}, pid {os.getpid()})"
        assert [usage for _, usage in told] == [True]
        assert told[0][0].startswith(f"{name} left with UsageError: no such \u00e4 \U0001f600")
        dogs[1].leave(RankLost("rank 1: all_reduce failed"))
        dogs[1].leave(KeyboardInterrupt())
        dogs[0].leave(ValueError("its own"))
        assert len(told) == 1 and list(dogs[0].farewells) == [2]
        channels[2].close()
        sentences, silent = dogs[0].missing(None, 2.0)
        assert sentences[1] == told[0][0] and silent == [2]
    finally:
        for dog in dogs:
            dog.close()


def test_a_stranger_without_the_token_is_not_answered_and_ends_nothing(pair: Any) -> None:
    (zero, one), ended, entries = pair
    stranger = Channel(0, dict, ended.append)
    stranger.listen(local_only=True, towards="")
    stranger.connect(entries, "another token")
    assert stranger.ask("where", [1], 1.0) == {1: None}
    assert stranger.ask("end", [1], 1.0, "no") == {1: None}
    with socket.create_connection(("127.0.0.1", entries[1]["port"])) as connection:
        connection.sendall(b"x" * 100_000 + b"\n")
    stranger.close()
    assert zero.ask("where", [1], 2.0) == {1: {"at": "one"}}
    assert ended == []


def test_a_peer_that_accepts_but_is_silent_costs_the_time_limit_only(pair: Any) -> None:
    (zero, _), _, entries = pair
    with socket.create_server(("127.0.0.1", 0)) as silent:
        zero.peers[2] = Peer(**{**entries[1], "rank": 2, "port": silent.getsockname()[1], "addresses": ()})
        began = time.monotonic()
        assert zero.ask("where", [1, 2], 0.5) == {1: {"at": "one"}, 2: None}
        assert 0.4 < time.monotonic() - began < 2


def test_only_the_very_process_of_this_machine_is_killed(pair: Any) -> None:
    (zero, _), _, entries = pair
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        os.kill(sleeper.pid, signal.SIGSTOP)
        fields = {**entries[1], "addresses": (), "pid": sleeper.pid, "started": process_start(sleeper.pid)}
        assert not zero.kill(Peer(**{**fields, "started": fields["started"] - 1}))  # the pid was used again
        assert not zero.kill(Peer(**{**fields, "machine": "elsewhere"}))
        assert sleeper.poll() is None
        assert zero.kill(Peer(**fields))
        assert sleeper.wait(5) == -signal.SIGKILL
        assert fields["machine"] == machine_identity()
    finally:
        sleeper.kill()


def test_over_all_interfaces_a_peer_is_reached_by_its_address() -> None:
    channel = Channel(1, lambda: {"at": "one"}, lambda text: None)
    entry = channel.listen(local_only=False, towards="127.0.0.1")
    assert "127.0.0.1" in entry["addresses"]
    asker = Channel(0, dict, lambda text: None)
    entries = [asker.listen(local_only=True, towards=""), {**entry, "machine": "elsewhere", "addresses": ["127.0.0.1"]}]
    channel.connect(entries, "t")
    asker.connect(entries, "t")
    assert asker.ask("where", [1], 2.0) == {1: {"at": "one"}}
    channel.close()
    asker.close()


WATCHED = """
import sys, time
from reelkin.core.engine.deadline import Watchdog
dog = Watchdog(0, 2, 0.4)
with dog.waiting(1, "quick"):
    time.sleep(0.2)
time.sleep(0.6)                       # outside of a collective nothing is counted
dog.extra_seconds = 0.6
with dog.waiting(2, "extended"):
    time.sleep(0.7)
dog.extra_seconds = 0.0
print("so far so good")
with dog.waiting(3, "outer", at_least=60):
    with dog.waiting(4, "inner"):
        time.sleep(60)
"""


def test_the_deadline_counts_only_the_current_wait_and_ends_the_process() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == "so far so good\n"
    assert "waited 0." in done.stderr and "in inner, over the deadline" in done.stderr
    assert 'File "<string>", line 15' in done.stderr
    assert time.monotonic() - began < 30


def test_a_pause_of_the_whole_process_does_not_use_up_the_deadline() -> None:
    code = (
        "import os, signal, time; from reelkin.core.engine.deadline import Watchdog\n"
        "dog = Watchdog(0, 2, 3.0)\n"
        "with dog.waiting(1, 'paused'):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    time.sleep(0.3)\n"
        "print('out', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(4.0)  # longer than the deadline; awake it waits for 0.3 s only
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "out\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({}, "none"),
        ({"RANK": "1"}, "none"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "torchrun"),
        (
            {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"},
            "horovodrun",
        ),
        ({f"OMPI_COMM_WORLD_{x}": "2" for x in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")}, "horovodrun"),
    ],
)
def test_the_launcher_is_known_by_its_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], launcher: str
) -> None:
    for variable in LAUNCHER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert read_launch().launcher == launcher


def test_a_broken_launcher_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in LAUNCHER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match=r"WORLD_SIZE.*'two'"):
        read_launch()


def test_a_backend_that_does_not_go_with_the_launcher_is_refused() -> None:
    alone, horovodrun, torchrun = Launch("none"), Launch("horovodrun", size=2), Launch("torchrun", size=2)
    assert choose_backend("auto", alone) == "single"
    assert choose_backend("auto", horovodrun) == "horovod"
    assert choose_backend("auto", torchrun) == "torch"
    assert choose_backend("horovod", alone) == "horovod"
    assert choose_backend("single", Launch("torchrun", size=1)) == "single"
    for wanted, launch, says in (
        ("torch", alone, "torchrun --nproc-per-node"),
        ("torch", horovodrun, "torchrun --nproc-per-node"),
        ("horovod", torchrun, "horovodrun -np"),
        ("single", horovodrun, "rank 0"),
        ("nccl", alone, "got 'nccl'"),
    ):
        with pytest.raises(UsageError, match=says):
            choose_backend(wanted, launch)


def test_start_refuses_bad_arguments_and_leaves_cleanly_after_an_error() -> None:
    for arguments in ({"deadline_seconds": 0}, {"device": "tpu"}, {"backend": "mpi"}):
        with pytest.raises(UsageError), start(**arguments):  # type: ignore[arg-type]
            pass
    with pytest.raises(KeyError), start("single"):
        raise KeyError("mine")
    with start("single", device="cpu") as engine:
        assert (engine.rank, engine.size, engine.backend, engine.is_main) == (0, 1, "single", True)


def test_horovod_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod.torch", None)
    monkeypatch.delitem(sys.modules, "reelkin.core.engine.horovod_engine", raising=False)
    with pytest.raises(UsageError, match="make setup"), start("horovod", deadline_seconds=30):
        pass


def test_two_threads_may_not_be_in_collectives_at_once() -> None:
    with start("single", device="cpu") as engine:
        inside, leave = threading.Event(), threading.Event()

        def linger() -> None:
            with engine._collective("barrier", "long"):
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=linger)
        thread.start()
        assert inside.wait(10)
        with pytest.raises(ReelkinError, match="another thread"):
            engine.barrier("short")
        leave.set()
        thread.join()
        engine.barrier("short")


def test_adasum_sums_orthogonal_and_averages_parallel_gradients() -> None:
    right, up = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    assert adasum_pair(right, up).tolist() == [2.0, 3.0]
    assert adasum_pair(right, right).tolist() == [2.0, 0.0]
    assert adasum_pair(right, 3 * right).tolist() == pytest.approx([4.0, 0.0])  # the mean of 2 and 6
    assert adasum_pair(right, torch.zeros(2)).tolist() == [2.0, 0.0]
    assert adasum([right, right, up, up]).tolist() == [2.0, 3.0]
    assert adasum([up]).tolist() == [0.0, 3.0]
    with pytest.raises(ValueError, match="power of two"):
        adasum([up, up, up])


def test_adasum_takes_off_half_of_what_each_gradient_says_along_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b = torch.randn(2, 7, generator=generator, dtype=torch.float64)
        along_a, along_b = (torch.outer(x, x) / x.square().sum() for x in (a, b))  # projections
        torch.testing.assert_close(adasum_pair(a, b), a + b - (along_a @ b + along_b @ a) / 2)
        torch.testing.assert_close(adasum_pair(a, b), adasum_pair(b, a))


def test_an_optimizer_state_survives_packing() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    tree = {"state": optimizer.state_dict(), "odd": [(), {}, math.inf, torch.ones(2, 0, dtype=torch.bool), None]}
    tensors: list[torch.Tensor] = []
    packed = json.loads(json.dumps(pack(tree, tensors)))
    shells = empty_tensors(packed)
    assert [(t.dtype, t.shape) for t in shells] == [(t.dtype, t.shape) for t in tensors]
    again = unpack(packed, list(tensors))
    assert again["state"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert list(again["state"]["state"]) == [0, 1]
    assert torch.equal(again["state"]["state"][1]["exp_avg"], optimizer.state_dict()["state"][1]["exp_avg"])
    assert again["odd"][:3] == [(), {}, math.inf]
    with pytest.raises(TypeError, match="type object"):
        pack({"x": object()}, [])


def test_a_digest_sees_names_dtypes_shapes_and_every_bit() -> None:
    base = torch.arange(6, dtype=torch.float32)
    digests = {digest(base), digest(base.view(2, 3)), digest(base.to(torch.float64)), digest(base.view(torch.int32))}
    flipped = base.clone()
    flipped[5] = torch.nextafter(flipped[5], torch.tensor(9.0))
    digests.add(digest(flipped))
    assert len(digests) == 5
    assert digest(base.clone()) == digest(base)
    torch.manual_seed(0)
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert digest(first) == digest(second)
    second.running_mean.add_(1)  # type: ignore[union-attr]
    assert digest(first) != digest(second)
