"""Which device is chosen, and what is said of one that is not there."""

from __future__ import annotations

import pytest
import torch

from reelkin.core.devices import choose_device, usable_device
from reelkin.core.errors import UsageError


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_a_gpu_for_each_rank_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert choose_device("auto") == choose_device("auto", 1, 2) == torch.device("cpu")
    gpus(monkeypatch, 2)
    assert choose_device("auto", 1, 2) == choose_device("cuda", 1, 2) == torch.device("cuda:1")
    assert choose_device("cpu", 1, 2) == torch.device("cpu")
    with pytest.raises(UsageError, match="3 ranks on this host but 2 GPUs"):
        choose_device("auto", 0, 3)


def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    for device in ("cpu", "cuda", "cuda:1"):
        assert usable_device(device) == usable_device(torch.device(device)) == torch.device(device)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "device: 'cpu' or 'cuda', got 'meta'"),
        ("gpu", "device: 'cpu' or 'cuda', got 'gpu'"),
        ("cuda", "device: 'cuda', but this process sees 0 GPUs; choose 'cpu'"),
        ("cuda:1", "device: 'cuda:1', but this process sees 0 GPUs; choose 'cpu'"),
    ],
)
def test_another_device_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    gpus(monkeypatch, 0)
    with pytest.raises(UsageError) as caught:
        usable_device(device)
    assert str(caught.value) == message


@pytest.mark.parametrize("wanted", ["meta", "gpu", "cuda:0", ""])
def test_a_flag_takes_only_the_three_words(wanted: str) -> None:
    with pytest.raises(UsageError, match="device: 'auto', 'cpu' or 'cuda', got"):
        choose_device(wanted)
