"""Pieces are shared out by duration, and every piece is taken by one rank, whatever their pace."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from reelkin.core.engine.single import SingleEngine
from reelkin.core.errors import ReelkinError
from reelkin.extract.running.claims import Account, Claims, open_claims, share_out, total
from reelkin.extract.running.work import Piece
from reelkin.shards.manifest import VideoRow


def piece(number: int, seconds: float) -> Piece:
    video = VideoRow(f"v{number}", "ok", duration_seconds=seconds)
    return Piece("clips-000000.tar", f"features-{number:06d}.safetensors", (video,), {}, {})


def test_shares_weigh_alike_and_begin_with_the_longest() -> None:
    shares = share_out([piece(number, seconds) for number, seconds in enumerate([5, 9, 1, 8, 4, 3])], 2)
    assert [[each.seconds for each in share] for share in shares] == [[9, 4, 3], [8, 5, 1]]


def test_ranks_of_any_pace_take_every_piece_once_and_the_fast_one_takes_more(tmp_path: Path) -> None:
    shares = share_out([piece(number, 1 + number % 7) for number in range(40)], 3)
    taken: list[list[Piece]] = [[], [], []]
    first_done, others_begun = threading.Event(), threading.Barrier(2)

    def rank(number: int) -> None:
        for each in Claims(tmp_path, shares, number).take():
            taken[number].append(each)
            if number == 0:
                first_done.wait()  # rank 0 sits on its first piece until the others have nothing left
            elif len(taken[number]) == 1:
                others_begun.wait()  # or the one that begins later may find nothing left

    slow = threading.Thread(target=rank, args=(0,))
    slow.start()
    while not taken[0]:
        pass
    others = [threading.Thread(target=rank, args=(number,)) for number in (1, 2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    first_done.set()
    slow.join()
    names = [each.block for share in taken for each in share]
    assert len(names) == 40 == len(set(names))
    assert len(taken[0]) == 1 and taken[0][0] is shares[0][0]
    for number in (1, 2):
        # All of its own, unless the other one had time to take over some; these first, in order.
        own = [each for each in shares[number] if each in taken[number]]
        assert own and taken[number][: len(own)] == own


def test_many_pieces_are_taken_in_no_time(tmp_path: Path) -> None:
    shares = share_out([piece(number, 1 + number % 7) for number in range(20_000)], 2)
    claims = Claims(tmp_path, shares, 0)
    began = time.process_time()
    assert sum(1 for _ in claims.take()) == 20_000
    assert time.process_time() - began < 5  # what all seconds are is not added up for each


def test_what_ranks_say_is_heard_once(tmp_path: Path) -> None:
    work = [piece(number, 1) for number in range(3)]
    one, other = (Claims(tmp_path, share_out(work, 2), rank) for rank in (0, 1))
    other.done(work[0], Account(2, 100, 7, {"damaged": 1}))
    other.done(work[1], Account(1, 50, 3))
    assert total(one.news()) == Account(3, 150, 10, {"damaged": 1})
    one.done(work[2], Account(1, 1, 1))
    assert one.news() == []
    assert total([]) == Account(0, 0, 0)


def test_a_new_run_removes_the_claims_of_killed_ones(tmp_path: Path) -> None:
    engine = SingleEngine(torch.device("cpu"))
    work = [piece(0, 1)]
    assert len(list(open_claims(tmp_path, work, engine).take())) == 1
    again = open_claims(tmp_path, work, engine)
    assert len(list(again.take())) == 1
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "gone", [[piece(0, 1)]], 0)
    with pytest.raises(ReelkinError, match=r"cannot write .*gone: No such file.*all ranks must share"):
        list(claims.take())
