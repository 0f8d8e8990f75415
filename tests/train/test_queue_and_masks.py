"""What is remembered and what may be pushed apart."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reelkin.core.engine.batch_norm import SynchronisedBatchNorm
from reelkin.core.errors import UsageError
from reelkin.train.objective.masks import NO_VIDEO, same_component, valid_negatives
from reelkin.train.objective.memory_queue import MemoryQueue
from reelkin.train.objective.momentum import KeyEncoder


def arrivals(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys whose value is their number, with video number and two groups made from it."""
    number = torch.arange(first, first + count)
    return number[:, None].repeat(1, 3).float(), number, torch.stack([number * 10, number * 10 + 1], dim=1)


@settings(max_examples=80, deadline=None)
@given(size=st.integers(0, 9), counts=st.lists(st.integers(0, 25), max_size=8))
def test_holds_the_newest_keys_in_order_of_arrival(size: int, counts: list[int]) -> None:
    queue = MemoryQueue(size, 3, num_groups=2)
    seen: list[int] = []
    for count in counts:
        queue.enqueue(*arrivals(len(seen), count))
        seen += range(len(seen), len(seen) + count)
        expected = seen[-size:] if size else []
        used = queue.videos != NO_VIDEO
        assert int(used.sum()) == queue.count == len(expected)
        assert sorted(queue.videos[used].tolist()) == expected
        # The ring, read from the next slot to be written, is oldest first.
        oldest_first = torch.roll(queue.videos, -queue.position)
        assert oldest_first[oldest_first != NO_VIDEO].tolist() == expected
        torch.testing.assert_close(queue.keys[used], queue.videos[used][:, None].float().repeat(1, 3))
        assert queue.groups[used].tolist() == [[v * 10, v * 10 + 1] for v in queue.videos[used].tolist()]
        assert not queue.keys[~used].any()


def test_a_restored_queue_goes_on_exactly() -> None:
    queue, other = MemoryQueue(7, 3, 2), MemoryQueue(7, 3, 2)
    queue.enqueue(*arrivals(0, 5))
    state = queue.state_dict()
    queue.enqueue(*arrivals(5, 4))
    other.load_state_dict(state)
    other.enqueue(*arrivals(5, 4))
    assert torch.equal(queue.keys, other.keys) and torch.equal(queue.videos, other.videos)
    assert torch.equal(queue.groups, other.groups)
    assert (queue.position, queue.count) == (other.position, other.count)
    with pytest.raises(ValueError, match="cannot be loaded"):
        MemoryQueue(8, 3, 2).load_state_dict(state)


def test_remembered_keys_carry_no_gradient() -> None:
    queue = MemoryQueue(4, 3)
    keys = torch.ones(2, 3, requires_grad=True)
    queue.enqueue(keys * 2, torch.tensor([1, 2]), torch.tensor([[1], [2]]))
    assert not queue.keys.requires_grad


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(UsageError, match="--queue-size is -1"):
        MemoryQueue(-1, 3)


def test_negatives_share_no_group_with_the_anchor() -> None:
    anchors = torch.tensor([[0, -1], [1, -1], [2, 5]])
    candidates = torch.tensor([[0, -1], [1, -1], [2, -1], [3, 0], [5, -1], [NO_VIDEO, NO_VIDEO], [6, 5]])
    expected = torch.tensor(
        [
            [False, True, True, False, True, False, True],  # the fourth shows a part of group 0
            [True, False, True, True, True, False, True],
            [True, True, False, True, False, False, False],  # the anchor itself shows a part of group 5
        ]
    )
    assert torch.equal(valid_negatives(anchors, candidates), expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_mask_equals_set_intersection(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    anchors = torch.randint(-1, 4, (5, 3), generator=rng)
    anchors[:, 0].clamp_(min=0)
    candidates = torch.randint(-1, 4, (9, 3), generator=rng)
    mask = valid_negatives(anchors, candidates)
    for row, column in itertools.product(range(5), range(9)):
        own, other = (set(each.tolist()) - {-1} for each in (anchors[row], candidates[column]))
        assert bool(mask[row, column]) == (int(candidates[column, 0]) >= 0 and not own & other)


def test_an_anchor_without_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="no group number"):
        valid_negatives(torch.tensor([[-1]]), torch.tensor([[0]]))


def test_the_same_component_is_the_first_group_alone() -> None:
    anchors = torch.tensor([[0, -1], [2, 5]])
    candidates = torch.tensor([[0, -1], [2, -1], [3, 0], [NO_VIDEO, NO_VIDEO], [5, 2]])
    expected = torch.tensor([[True, False, False, False, False], [False, True, False, False, False]])
    assert torch.equal(same_component(anchors, candidates), expected)
    assert not (same_component(anchors, candidates) & valid_negatives(anchors, candidates)).any()


def test_momentum_zero_is_the_model_itself_without_gradient() -> None:
    model = nn.Linear(3, 3)
    keys = KeyEncoder(model, 0.0)
    assert keys.module is model and keys.state_dict() == {}
    assert not keys(torch.ones(1, 3)).requires_grad
    assert model.weight.requires_grad


def test_the_key_encoder_follows_by_its_momentum() -> None:
    model = nn.Sequential(nn.Linear(2, 2), SynchronisedBatchNorm(2))
    keys = KeyEncoder(model, 0.9)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
        model[1].running_mean += 5
    torch.testing.assert_close(keys.module[0].weight, before)  # type: ignore[index]
    keys.update()
    torch.testing.assert_close(keys.module[0].weight, before + 0.1)  # type: ignore[index]
    torch.testing.assert_close(keys.module[1].running_mean, torch.full((2,), 0.5))  # type: ignore[index]
    restored = KeyEncoder(model, 0.9)
    restored.load_state_dict(keys.state_dict())
    torch.testing.assert_close(restored.module[0].weight, before + 0.1)  # type: ignore[index]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_keys_are_normalised_by_running_statistics_and_leave_them_alone(momentum: float) -> None:
    model = nn.Sequential(SynchronisedBatchNorm(2), nn.Dropout(0.5)).train()
    keys = KeyEncoder(model, momentum)
    norm = keys.module[0]  # type: ignore[index]
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(4.0)
    torch.manual_seed(0)
    found = torch.cat([keys(torch.full((1, 2), 7.0)) for _ in range(50)])
    assert {round(each, 3) for each in found.flatten().tolist()} == {0.0, 4.0}, "dropout doubles or drops (7 - 3) / 2"
    assert norm.running_mean.tolist() == [3.0, 3.0] and int(norm.num_batches_tracked) == 0
    assert model[0].training and model[1].training


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(UsageError, match="--momentum"):
        KeyEncoder(nn.Linear(1, 1), momentum)
