"""The side channel: how a rank learns where the other ranks are while a collective hangs.

Every rank runs one small TCP responder in a thread of its own. Asked "where", it answers with the collective in which
its main thread waits; told "left", it takes down why the asking rank leaves; told "end", it ends its process. There is
no store in the middle: a store lives in some rank (or launcher), and when just that process is stopped or gone, nobody
can be asked. With a responder in each rank a stopped process does not answer (the kernel may still accept the
connection, hence the read has a time limit), a process that is gone refuses, and one that is merely slow or lost says
so and where it is.

Ports are chosen by the kernel; ports, addresses and a random token of this run travel once over the backend's own
collectives when the engine starts. If all ranks share a machine, the responder listens on the loopback only. Each
message is one line of JSON with an HMAC of the token: a stranger is not answered and cannot end a run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINE_BYTES = 16384
READ_SECONDS = 2.0
JOIN_SECONDS = 2.0
"""Longest wait for a thread of the engine on the way out."""


@dataclass(frozen=True)
class Peer:
    """Where one rank's process lives and how to reach its responder."""

    rank: int
    host: str
    machine: str
    """Equal for two processes that can signal each other: the boot and the PID namespace."""
    pid: int
    started: int
    """Start time of the process in clock ticks, which tells it from a later one with the same pid; 0 if unknown."""
    port: int
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def machine_identity() -> str:
    """A string that two processes share if, and only if, a pid means the same process to both."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 if the process is gone or the system does not say."""
    try:
        # The second field is the command's name in brackets and may itself hold spaces and brackets.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def own_addresses(towards: str) -> tuple[str, ...]:
    """This host's addresses as the other ranks may reach it, best first.

    Args:
        towards: a host that all ranks reach (the launcher's rendezvous), or "". The source address that the kernel
            would use towards it comes first; no packet is sent to find it.
    """
    found: list[str] = []
    for target, use_source in ((towards, True), (socket.gethostname(), False)):
        if not target:
            continue
        try:
            entries = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)
        except OSError:
            continue
        for family, kind, _, _, address in entries:
            if not use_source:
                found.append(str(address[0]))
                continue
            with socket.socket(family, kind) as probe:
                try:
                    probe.connect(address)
                    found.append(str(probe.getsockname()[0]))
                except OSError:
                    continue
    return tuple(dict.fromkeys(found))


def _mac(token: str, *parts: str) -> str:
    return hmac.new(token.encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def _read_line(connection: socket.socket, until: float) -> dict[str, Any]:
    """One JSON object of at most `LINE_BYTES`; ValueError or OSError if it does not come in time."""
    data = b""
    while not data.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or len(data) > LINE_BYTES:
            raise ValueError("no whole line")
        connection.settimeout(left)
        piece = connection.recv(4096)
        if not piece:
            raise ValueError("closed early")
        data += piece
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


class Channel:
    """This rank's responder, and the questions it can put to the others'.

    Args:
        rank: this process's rank.
        position: called for "where"; returns JSON-able values that say where this rank is.
        end: called with a reason for "end"; does not come back.
        farewell: called with the text of "left", before the answer.
    """

    def __init__(
        self,
        rank: int,
        position: Callable[[], dict[str, Any]],
        end: Callable[[str], None],
        farewell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.rank = rank
        self.peers: dict[int, Peer] = {}
        self._position = position
        self._end = end
        self._farewell = farewell
        self._token = ""
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._slots = threading.BoundedSemaphore(64)

    def listen(self, local_only: bool, towards: str) -> dict[str, Any]:
        """Take a port and return what the other ranks must know of this one: the fields of `Peer` as JSON values."""
        self._socket = _listening_socket(local_only)
        return {
            "rank": self.rank,
            "host": socket.gethostname(),
            "machine": machine_identity(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "port": self._socket.getsockname()[1],
            "addresses": [] if local_only else list(own_addresses(towards)),
        }

    def connect(self, entries: Iterable[dict[str, Any]], token: str) -> None:
        """Take in what every rank's `listen` returned and the run's token, and begin to answer."""
        self._token = token
        peers = [Peer(**{**entry, "addresses": tuple(entry["addresses"])}) for entry in entries]
        self.peers = {peer.rank: peer for peer in peers if peer.rank != self.rank}
        self._thread = threading.Thread(target=self._serve, name="reelkin-responder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            except OSError:
                pass
            self._socket.close()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self._slots.acquire(blocking=False):
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                request = _read_line(connection, time.monotonic() + READ_SECONDS)
                nonce, what, text = (str(request.get(key, "")) for key in ("nonce", "what", "text"))
                if not hmac.compare_digest(_mac(self._token, nonce, what, text), str(request.get("mac", ""))):
                    return
                if what == "left":
                    self._farewell(text)
                body = json.dumps(self._position())
                reply = {"body": body, "mac": _mac(self._token, nonce, "answer", body)}
                connection.sendall(json.dumps(reply).encode() + b"\n")
            if what == "end":
                self._end(text)
        except (OSError, ValueError):
            pass  # a stranger, or a peer that gave up waiting
        finally:
            self._slots.release()

    def ask(self, what: str, ranks: Iterable[int], seconds: float, text: str = "") -> dict[int, dict[str, Any] | None]:
        """Put one question to several ranks at once.

        Args:
            what: "where", "left" or "end".
            ranks: whom to ask.
            seconds: time limit for all of it together (a little more with many hundreds of silent ranks).
            text: the reason that goes with "left" and "end".

        Returns:
            For each rank its position, or None if it did not answer.
        """
        asked = list(ranks)
        if not asked:
            return {}
        with ThreadPoolExecutor(max_workers=min(128, len(asked))) as pool:
            answers = pool.map(lambda rank: self._ask_one(self.peers[rank], what, seconds, text), asked)
            return dict(zip(asked, answers, strict=True))

    def _ask_one(self, peer: Peer, what: str, seconds: float, text: str) -> dict[str, Any] | None:
        nonce = secrets.token_hex(16)
        message = {"nonce": nonce, "what": what, "text": text, "mac": _mac(self._token, nonce, what, text)}
        near = ("127.0.0.1",) if peer.machine == machine_identity() else ()
        addresses = tuple(dict.fromkeys(near + peer.addresses))
        until = time.monotonic() + seconds
        for position, address in enumerate(addresses):
            # The time that is left is shared by the addresses not yet tried.
            limit = time.monotonic() + max(0.05, (until - time.monotonic()) / (len(addresses) - position))
            try:
                left = max(0.05, limit - time.monotonic())
                with socket.create_connection((address, peer.port), timeout=left) as connection:
                    connection.sendall(json.dumps(message).encode() + b"\n")
                    reply = _read_line(connection, limit)
                body = str(reply.get("body", ""))
                if hmac.compare_digest(_mac(self._token, nonce, "answer", body), str(reply.get("mac", ""))):
                    return dict(json.loads(body))
            except (OSError, ValueError):
                continue
        return None

    def kill(self, peer: Peer) -> bool:
        """End a silent process of this machine by SIGKILL; False if it lives elsewhere or is gone already.

        A stopped process does not act on SIGTERM until it is continued: a launcher that ends its workers politely
        would wait for it (torchrun 30 s, horovodrun 5 s).
        """
        if peer.machine != machine_identity() or not peer.started or process_start(peer.pid) != peer.started:
            return False
        try:
            os.kill(peer.pid, signal.SIGKILL)
            return True
        except OSError:
            return False


def _listening_socket(local_only: bool) -> socket.socket:
    if local_only:
        return socket.create_server(("127.0.0.1", 0), backlog=256)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True)
        except OSError:
            pass  # IPv6 is compiled in but switched off
    return socket.create_server(("", 0), backlog=256)
