"""Feature edits do what their names say, and never lose a whole video."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkin.core.errors import UsageError
from reelkin.core.seeds import generator
from reelkin.train.data.feature_edits import (
    STRENGTHS,
    crop,
    drop,
    edit,
    edits_of_strength,
    noise,
    relocate,
    shuffle,
    speed,
)


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


def test_relocation_moves_a_pair_alike_to_a_new_place_and_keeps_what_sets_it_apart() -> None:
    rng = generator("pair")
    scene = rng.standard_normal(128)
    anchor = (scene + 0.3 * rng.standard_normal((7, 128))).astype(np.float32)
    change = rng.standard_normal(128)
    positive = (anchor[:4] + 0.5 * change).astype(np.float32)
    places = []
    for seed in range(10):
        one, two = relocate(anchor, positive, generator(seed))
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), np.linalg.norm(anchor, axis=1), rtol=1e-5)
        apart = two.mean(0) - one[:4].mean(0)
        assert apart @ change / np.linalg.norm(apart) / np.linalg.norm(change) > 0.8, "the change is what it was"
        assert 0.6 < np.linalg.norm(apart) / np.linalg.norm(0.5 * change) < 1.4
        places.append(one.mean(0) / np.linalg.norm(one.mean(0)))
    cosines = np.array(places) @ np.array(places).T - np.eye(10)
    assert np.abs(cosines).max() < 0.5, "the places have nothing to do with one another"
    assert abs(np.array(places) @ scene / np.linalg.norm(scene)).max() < 0.5, "nor with the scene"


def test_relocating_zeros_stays_finite() -> None:
    for each in relocate(np.zeros((2, 4), np.float32), np.zeros((1, 4), np.float32), generator(0)):
        assert np.isfinite(each).all()


def test_strengths_go_by_name() -> None:
    assert edits_of_strength("none") is None
    with pytest.raises(UsageError, match="choose one of none, light, medium, strong"):
        edits_of_strength("extreme")
