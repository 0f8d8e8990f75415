"""Who does which piece: every rank begins with its own share, and one that is done early takes what is left of others'.

A piece is taken by making a file that must not exist yet, in a folder of this run beside the store: whoever makes it
does the piece. When it is done, the file says what came of it, which is how rank 0 knows how far all are.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...core.engine import Engine
from ...core.errors import ReelkinError
from ...core.files import publish_json
from .work import Piece

_PREFIX = ".claims-"


def share_out(work: Sequence[Piece], size: int) -> list[list[Piece]]:
    """Divide pieces among ranks: longest first, each to the rank with the least so far. Longest first in each share."""
    shares: list[list[Piece]] = [[] for _ in range(size)]
    load = [0.0] * size
    for piece in sorted(work, key=lambda piece: (-piece.seconds, piece.block)):
        rank = load.index(min(load))
        shares[rank].append(piece)
        load[rank] += piece.seconds
    return shares


@dataclass(frozen=True)
class Account:
    """What came of a piece.

    Attributes:
        videos, bytes: done, rejected ones included; of their clips.
        frames: features made.
        reasons: rejects by reason.
    """

    videos: int
    bytes: int
    frames: int
    reasons: dict[str, int] = field(default_factory=dict)


class Claims:
    """The pieces of one run. Made by `open_claims`.

    Args:
        folder: of this run.
        shares: of all ranks (see `share_out`).
        rank: this one.
    """

    def __init__(self, folder: Path, shares: Sequence[Sequence[Piece]], rank: int) -> None:
        self._folder = folder
        self._left = [deque(share) for share in shares]
        self._seconds = [sum(piece.seconds for piece in share) for share in shares]
        self._rank = rank
        self._heard: set[str] = set()

    def take(self) -> Iterator[Piece]:
        """Pieces for this rank until all are taken: its own, then the shortest of whoever has most left."""
        while any(self._left):
            if self._left[self._rank]:
                rank, piece = self._rank, self._left[self._rank].popleft()
            else:
                rank = max((rank for rank, share in enumerate(self._left) if share), key=self._seconds.__getitem__)
                piece = self._left[rank].pop()
            self._seconds[rank] -= piece.seconds
            if self._claim(piece):
                yield piece

    def _claim(self, piece: Piece) -> bool:
        try:
            os.close(os.open(self._folder / piece.block, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        except OSError as error:
            raise ReelkinError(
                f"cannot write {self._folder}: {error.strerror or error}; make room or check the permissions (all "
                "ranks must share the output folder), then run the same command again"
            ) from error
        return True

    def done(self, piece: Piece, account: Account) -> None:
        """Say what came of a piece."""
        publish_json(self._folder / (piece.block + ".done"), asdict(account))
        self._heard.add(piece.block + ".done")

    def news(self) -> list[Account]:
        """What other ranks have said since the last call."""
        found = []
        for path in self._folder.glob("*.done"):
            if path.name not in self._heard:
                self._heard.add(path.name)
                found.append(Account(**json.loads(path.read_text())))
        return found

    def close(self) -> None:
        """Remove the folder: on one rank, when all are done."""
        shutil.rmtree(self._folder, ignore_errors=True)


def open_claims(output: Path, work: Sequence[Piece], engine: Engine) -> Claims:
    """Begin a run; every rank calls it. What earlier, killed runs left of theirs is removed.

    Raises:
        ReelkinError: the folder cannot be made.
    """
    name = ""
    if engine.is_main:
        for old in output.glob(f"{_PREFIX}*"):
            shutil.rmtree(old, ignore_errors=True)
        name = f"{_PREFIX}{uuid.uuid4().hex[:12]}"
        try:
            (output / name).mkdir(parents=True)
        except OSError as error:
            raise ReelkinError(f"cannot make {output / name}: {error.strerror or error}; check the folder") from error
    name = engine.broadcast_object(name, "claims")
    return Claims(output / name, share_out(work, engine.size), engine.rank)


def total(accounts: Sequence[Account]) -> Account:
    """The sum of several."""
    reasons: Counter[str] = Counter()
    for account in accounts:
        reasons.update(account.reasons)
    return Account(
        sum(account.videos for account in accounts),
        sum(account.bytes for account in accounts),
        sum(account.frames for account in accounts),
        dict(reasons),
    )
