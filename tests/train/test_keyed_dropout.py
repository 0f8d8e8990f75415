"""Keyed dropout is dropout: right rate, right mean, no visible structure; and it is keyed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reelkin.core.seeds import seed_of
from reelkin.train.models.keyed_dropout import keyed_dropout, random_words

KEYS = torch.tensor([seed_of("sample", number) for number in range(64)])


def test_words_are_uniform_in_every_bit_and_byte() -> None:
    words = random_words(KEYS, 0, (64, 40, 50)).numpy().view(np.uint32).reshape(-1)
    for bit in range(32):
        assert abs(((words >> np.uint32(bit)) & 1).mean() - 0.5) < 0.01, bit
    counts = np.bincount(words >> np.uint32(24), minlength=256)
    chi_squared = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 160 < chi_squared < 370  # 255 degrees of freedom: one in a million outside


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_rate_and_mean_are_those_of_dropout(probability: float) -> None:
    x = torch.ones(64, 30, 40)
    out = keyed_dropout(x, probability, KEYS, 3)
    assert abs(float((out == 0).float().mean()) - probability) < 0.01
    assert abs(float(out.mean()) - 1) < 0.03
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)))


def test_masks_of_neighbours_places_and_samples_are_unrelated() -> None:
    mask = (keyed_dropout(torch.ones(64, 30, 40), 0.5, KEYS, 0) > 0).float().numpy()
    other = (keyed_dropout(torch.ones(64, 30, 40), 0.5, KEYS, 1) > 0).float().numpy()
    pairs = [(mask, other), (mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1]), (mask[..., 1:], mask[..., :-1])]
    for one, two in pairs:
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.02


def test_a_mask_depends_on_indices_and_not_on_sizes() -> None:
    large = random_words(KEYS, 2, (64, 4, 20, 20))
    assert torch.equal(random_words(KEYS[5:9], 2, (4, 4, 7, 9)), large[5:9, :, :7, :9])


def test_keys_that_differ_only_in_their_upper_half_differ() -> None:
    keys = torch.tensor([5, 5 + (1 << 40)])
    first, second = random_words(keys, 0, (2, 100))
    assert not torch.equal(first, second)


def test_probability_zero_returns_the_tensor_itself() -> None:
    x = torch.randn(2, 3)
    assert keyed_dropout(x, 0.0, KEYS[:2], 0) is x


def test_gradients_pass_where_values_do() -> None:
    x = torch.ones(64, 50, requires_grad=True)
    out = keyed_dropout(x, 0.3, KEYS, 0)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, out.detach())
