"""What is missing at the end of a file shows in its own chain of blocks, without a demuxer."""

from __future__ import annotations

import io

import av
import pytest

from reelkin.core.errors import DataError, Reason
from reelkin.shards.video.probe import probe
from reelkin.shards.video.structure import broken_off
from reelkin.tests.helpers.hostile_bases import Bases


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Whole videos of many formats."""
    return Bases(tmp_path_factory.mktemp("bases"))


def end_of(data: bytes) -> str:
    return broken_off(io.BytesIO(data), len(data))


@pytest.mark.parametrize("name", ["flash.flv", "sorenson.flv", "vp8.ivf", "theora.ogv", "picture.gif"])
def test_a_chain_of_blocks_that_is_whole_lacks_nothing_and_a_cut_one_says_so(bases: Bases, name: str) -> None:
    data = bases.data(name)
    assert end_of(data) == ""
    found = [bool(end_of(data[:size])) for size in range(len(data) // 2, len(data) - 30)]
    assert sum(found) > 0.8 * len(found)  # the others are cuts between two blocks, or in a block that is no picture
    for size in range(len(data) // 2, len(data), 97):
        if end_of(data[:size]):
            with pytest.raises(DataError) as caught:
                probe(data[:size])
            assert caught.value.reason is Reason.TRUNCATED


def test_other_bytes_behind_the_last_flash_tag_are_no_cut(bases: Bases) -> None:
    data = bases.data("sorenson.flv")
    tag = b"\x09\xff\xff\xff" + bytes(7)
    assert end_of(data + tag) and not end_of(data + tag[:4] + b"\1" * 7) and not end_of(data + b"\x89" + tag[1:])


def test_a_gif_that_lacks_its_last_two_bytes_has_all_its_pictures(bases: Bases) -> None:
    data = bases.data("picture.gif")
    assert data.endswith(b"\x00\x3b")
    for lost in (1, 2):
        assert end_of(data[:-lost]) == "" and probe(data[:-lost]).num_frames == 20
    assert end_of(data[:-3])
    control = data.rindex(b"\x21\xf9\x04")
    assert end_of(data[: control + 7])  # a picture was announced


def test_a_windows_media_file_that_lacks_padding_has_all_its_pictures(bases: Bases) -> None:
    data = bases.data("media.wmv")
    assert probe(data[:-4]).num_frames == 20
    last_picture = data.rindex(probe_packets(data)[-1])
    with pytest.raises(DataError) as caught:
        probe(data[:last_picture])
    assert caught.value.reason is Reason.TRUNCATED


def probe_packets(data: bytes) -> list[bytes]:
    """The video packets of a file, as PyAV alone reads them."""
    with av.open(io.BytesIO(data)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]
