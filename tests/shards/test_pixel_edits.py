"""Edits of the picture against independent computations of what each should do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from reelkin.shards.editing import overlay_edits, pixel_edits
from reelkin.shards.editing.edited_copy import PIXEL_EDITS
from reelkin.shards.editing.plan import Edit
from reelkin.shards.editing.strengths import STRENGTH_TABLE, STRENGTHS

WIDTH, HEIGHT = 90, 60


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter(rng.integers(0, 256, (height, width, 3)).astype(float), (2, 2, 0)).astype(np.uint8)


def apply(name: str, frame: np.ndarray, number: int = 0, **parameters: Any) -> np.ndarray:
    edit = Edit(name, tuple(parameters.items()))
    prepared = PIXEL_EDITS[name](frame.shape[1], frame.shape[0], edit)
    result = prepared.apply(frame, number)
    assert result.shape == (prepared.height, prepared.width, 3) and result.dtype == np.uint8
    return result


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", sorted(PIXEL_EDITS))
def test_every_edit_changes_the_picture_and_leaves_its_input_alone(name: str, strength: str) -> None:
    rng = np.random.default_rng(3)
    for width, height in ((320, 240), (161, 133), (17, 16)):
        frame = picture(1, width, height)
        before = frame.copy()
        drawn = {parameter: draw.draw(rng) for parameter, draw in STRENGTH_TABLE[name][strength].items()}
        result = apply(name, frame, seed=5, **drawn)
        assert np.array_equal(frame, before)
        assert result.shape != before.shape or (result != before).any() or width < 320  # too small to blur or to crop
        assert min(result.shape[:2]) >= pixel_edits.MIN_SIDE


def test_mirroring_twice_is_the_identity_and_once_swaps_left_and_right() -> None:
    frame = picture()
    once = apply("mirror", frame)
    assert np.array_equal(once[:, 0], frame[:, -1]) and np.array_equal(once[:, -1], frame[:, 0])
    assert np.array_equal(apply("mirror", once), frame)


def test_a_crop_is_a_region_of_the_source() -> None:
    frame = picture()
    assert np.array_equal(apply("crop", frame, kept=0.5, x=0.0, y=0.0), frame[:30, :45])
    assert np.array_equal(apply("crop", frame, kept=0.5, x=1.0, y=1.0), frame[30:, 45:])
    assert np.array_equal(apply("crop", frame, kept=0.8, x=0.5, y=0.5), frame[6:54, 9:81])


def test_rotation_is_counter_clockwise_and_fills_with_black() -> None:
    square = picture(2, 64, 64)
    assert np.array_equal(apply("rotate", square, degrees=90.0), np.rot90(square))
    turned = apply("rotate", np.full((64, 64, 3), 200, np.uint8), degrees=20.0)
    assert turned[0, 0].max() == 0 and turned[32, 32].min() == 200
    reference = ndimage.rotate(square.astype(float), 20, axes=(0, 1), reshape=False, order=1)
    middle = (slice(16, 48), slice(16, 48))
    assert np.abs(apply("rotate", square, degrees=20.0)[middle] - reference[middle]).mean() < 2


def test_letterbox_bars_are_black_and_of_the_asked_share() -> None:
    frame = np.maximum(picture(), 1)
    for sides, axis in (("above", 0), ("left", 1)):
        boxed = apply("letterbox", frame, bars=0.25, sides=sides)
        lit = boxed.max(axis=(1 - axis, 2)) > 0
        assert abs(1 - lit.sum() / len(lit) - 0.25) < 0.03
        inside = boxed[lit] if axis == 0 else boxed[:, lit]
        assert np.array_equal(inside, frame)


def test_resize_averages_what_it_shrinks() -> None:
    frame = picture()
    small = apply("resize", frame, scale=1 / 3, stretch=1.0)
    means = frame.reshape(20, 3, 30, 3, 3).mean(axis=(1, 3))
    assert small.shape == (20, 30, 3) and np.abs(small - means).mean() < 2
    assert apply("resize", frame, scale=0.5, stretch=1.4).shape == (30, 63, 3)


def test_brightness_and_contrast_follow_their_formula() -> None:
    frame = picture()
    expected = np.clip((frame.astype(float) - 128) * 1.5 + 128 - 30, 0, 255)
    assert np.abs(apply("brightness_contrast", frame, brightness=-30.0, contrast=1.5) - expected).max() <= 0.5


def test_grey_keeps_the_luma_and_takes_the_colour() -> None:
    frame = picture()
    luma = frame @ [0.299, 0.587, 0.114]
    grey = apply("grey", frame, saturation=0.0)
    assert np.ptp(grey, axis=-1).max() == 0 and np.abs(grey[..., 0] - luma).max() <= 0.51
    half = apply("grey", frame, saturation=0.5)
    assert np.abs(half @ [0.299, 0.587, 0.114] - luma).max() <= 1.0
    assert np.abs(np.ptp(half.astype(int), axis=-1) - np.ptp(frame.astype(int), axis=-1) / 2).max() <= 1.0


def test_blur_is_a_gaussian_of_the_asked_width() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    reference = ndimage.gaussian_filter(frame.astype(float), (3, 3, 0), mode="nearest")
    assert np.abs(apply("blur", frame, radius=3 / 60) - reference).mean() < 1.5  # Pillow's is three box filters


def test_noise_has_the_asked_deviation_and_differs_from_picture_to_picture() -> None:
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    first, second, again = (apply("noise", frame, number, deviation=10.0, seed=1) for number in (0, 1, 0))
    assert abs(first.astype(float).std() - 10) < 0.5 and abs(first.mean() - 128) < 0.5
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    assert apply("noise", np.full_like(frame, 255), deviation=10.0, seed=1).max() == 255


def test_a_logo_covers_its_corner_only() -> None:
    frame = picture()
    top, bottom, left, right = slice(0, 30), slice(30, 60), slice(0, 45), slice(45, 90)
    for corner, (rows, columns) in enumerate([(top, left), (top, right), (bottom, left), (bottom, right)]):
        changed = (apply("logo", frame, size=0.4, opacity=1.0, corner=corner, seed=2) != frame).any(axis=-1)
        assert changed[rows, columns].sum() == changed.sum() > 0.5 * 24 * 24


def test_a_half_transparent_logo_is_half_as_strong() -> None:
    frame = picture()
    strong, weak = (
        apply("logo", frame, size=0.5, opacity=opacity, corner=0, seed=2).astype(int) - frame for opacity in (1.0, 0.5)
    )
    assert np.abs(weak - strong / 2).max() <= 1.5


def test_text_stands_where_it_is_asked_to_and_differs_by_seed() -> None:
    frame = picture(0, 320, 240)
    bottom = apply("text", frame, line=0.1, lines=2, place="bottom", band=True, seed=1)
    assert np.array_equal(bottom[:180], frame[:180]) and (bottom[180:] != frame[180:]).any(axis=-1).mean() > 0.9
    top = apply("text", frame, line=0.1, lines=1, place="top", band=False, seed=1)
    changed = (top != frame).any(axis=-1)
    assert not changed[36:].any() and 0.05 < changed[:36].mean() < 0.8
    assert not np.array_equal(top, apply("text", frame, line=0.1, lines=1, place="top", band=False, seed=2))


def test_picture_in_picture_lays_the_shrunk_picture_over_the_other_one() -> None:
    frame, other = picture(0), picture(9, 120, 60)
    edit = Edit("picture_in_picture", (("side", 0.5), ("x", 1.0), ("y", 0.0), ("start", 0.0)))
    numbers: list[int] = []

    def background(number: int) -> np.ndarray:
        numbers.append(number)
        return other

    result = overlay_edits.picture_in_picture(WIDTH, HEIGHT, edit, background).apply(frame, 7)
    assert numbers == [7]
    assert np.array_equal(result[:30, 45:], apply("resize", frame, scale=0.5, stretch=1.0))
    assert np.array_equal(result[30:], other[30:, 15:105]) and np.array_equal(result[:, :45], other[:, 15:60])


def test_covering_keeps_proportions_and_cuts_the_middle_out() -> None:
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, 75:125] = 250
    assert pixel_edits.covering(wide, 50, 50).min() == 250
    assert pixel_edits.covering(wide, 25, 25).min() > 200
    for width, height in ((53, 17), (17, 53), (31, 31)):
        assert pixel_edits.covering(wide, width, height).shape == (height, width, 3)
