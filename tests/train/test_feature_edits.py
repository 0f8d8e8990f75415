"""Feature edits do what their names say, and never lose a whole video."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkin.core.errors import UsageError
from reelkin.core.seeds import generator
from reelkin.train.feature_edits import STRENGTHS, crop, drop, edit, edits_of_strength, noise, shuffle, speed


def ramp(length: int) -> np.ndarray:
    """Frame t is (t + 1) times a fixed unit vector pair: its number can be read off."""
    return (np.arange(1, length + 1)[:, None] * np.array([[0.6, 0.8]])).astype(np.float32)


def numbers(frames: np.ndarray) -> list[int]:
    return [round(float(row[0] / 0.6)) for row in frames]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 10**6), strength=st.sampled_from(sorted(STRENGTHS)))
def test_any_video_keeps_a_frame_its_type_and_its_width(length: int, seed: int, strength: str) -> None:
    frames = generator("frames", seed).standard_normal((length, 5)).astype(np.float32)
    before = frames.copy()
    out = edit(frames, STRENGTHS[strength], generator(seed))
    assert out.dtype == np.float32 and out.ndim == 2 and out.shape[1] == 5 and len(out) >= 1
    assert np.isfinite(out).all()
    assert np.array_equal(frames, before), "the store's own rows must not change"
    assert np.array_equal(out, edit(frames, STRENGTHS[strength], generator(seed)))


@pytest.mark.parametrize("seed", range(8))
def test_time_edits_keep_frames_as_they_are(seed: int) -> None:
    frames, rng = ramp(20), generator(seed)
    cropped = numbers(crop(frames, 0.5, rng))
    assert 10 <= len(cropped) <= 20 and cropped == list(range(cropped[0], cropped[0] + len(cropped)))
    played = numbers(speed(frames, 2.0, rng))
    assert 10 <= len(played) <= 40 and played == sorted(played) and played[0] == 1
    dropped = numbers(drop(frames, 0.4, rng))
    gaps = np.diff([0, *dropped, 21])
    assert 12 <= len(dropped) <= 20 and (gaps > 1).sum() <= 1
    shuffled = numbers(shuffle(frames, 4, rng))
    assert sorted(shuffled) == list(range(1, 21)) and (np.diff(shuffled) != 1).sum() <= 3


def test_shuffling_does_change_the_order() -> None:
    assert any(numbers(shuffle(ramp(20), 4, generator(seed))) != list(range(1, 21)) for seed in range(4))


def test_noise_turns_frames_but_keeps_their_length() -> None:
    frames = generator("x").standard_normal((50, 64)).astype(np.float32) * 3
    cosines = []
    for seed in range(20):
        noisy = noise(frames, 0.7, 0.0, generator(seed))
        np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), np.linalg.norm(frames, axis=1), rtol=1e-5)
        cosines.append(float(((noisy * frames).sum(1) / (frames**2).sum(1)).mean()))
    # A vector plus noise of 0.7 of its length, at right angles: cosine 1 / sqrt(1 + 0.49) = 0.82 at the most noise.
    assert 0.78 < min(cosines) < 0.9 and max(cosines) > 0.97


def test_shared_noise_moves_all_frames_alike() -> None:
    frames = np.ones((6, 64), np.float32)
    noisy = noise(frames, 0.0, 0.7, generator(1))
    np.testing.assert_allclose(noisy, noisy[:1].repeat(6, axis=0), rtol=1e-6)
    assert np.abs(noisy - frames).max() > 0.05


def test_a_row_of_zeros_stays_finite() -> None:
    assert np.isfinite(noise(np.zeros((3, 4), np.float32), 0.5, 0.5, generator(0))).all()


def test_strengths_go_by_name() -> None:
    assert edits_of_strength("none") is None
    with pytest.raises(UsageError, match="choose one of none, light, medium, strong"):
        edits_of_strength("extreme")
