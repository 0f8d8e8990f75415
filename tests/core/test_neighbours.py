"""Nearest neighbours in blocks are those of the whole matrix of products."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from reelkin.core.neighbours import first_neighbours


@pytest.mark.parametrize("tile_bytes", [4, 4 * 7 * 7, 1 << 20])
def test_blocks_of_any_size_find_what_the_whole_matrix_holds(tile_bytes: int) -> None:
    rows = np.random.default_rng(1).standard_normal((53, 6)).astype(np.float32)
    products = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(products, -np.inf)
    number, product = first_neighbours(rows, tile_bytes)
    assert np.array_equal(number, products.argmax(axis=1))
    np.testing.assert_allclose(product, products.max(axis=1), rtol=1e-5)


def test_of_equals_the_first_is_taken_and_never_the_vector_itself() -> None:
    number, product = first_neighbours(np.ones((4, 2)), tile_bytes=4)
    assert number.tolist() == [1, 0, 0, 0] and product.tolist() == [2, 2, 2, 2]


def test_memory_is_that_of_a_block() -> None:
    rows = np.random.default_rng(2).standard_normal((4000, 4)).astype(np.float32)
    tracemalloc.start()
    first_neighbours(rows, tile_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20 < rows.shape[0] ** 2 * 4 / 8


def test_one_vector_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors"):
        first_neighbours(np.ones((1, 3)))
