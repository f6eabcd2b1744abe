"""Pictures at other resolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.resampling import (
    averaged,
    enlarged,
    folded,
    unfolded,
)

PICTURE = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_enlarging_repeats_each_pixel_and_averaging_undoes_it(factor):
    large = enlarged(PICTURE, factor)
    np.testing.assert_array_equal(large, np.asarray(PICTURE).repeat(factor, 1).repeat(factor, 2))
    np.testing.assert_allclose(averaged(large, factor), PICTURE, atol=1e-6)


def test_unfolding_puts_each_channel_in_its_place_and_folding_undoes_it():
    found = unfolded(PICTURE)
    assert found.shape == (2, 6, 8, 2)
    for row in range(2):
        for column in range(2):
            first = 2 * (2 * row + column)
            np.testing.assert_array_equal(
                found[:, row::2, column::2], PICTURE[..., first : first + 2]
            )
    np.testing.assert_array_equal(folded(found), PICTURE)


def test_folding_keeps_the_pixels_of_a_square_together():
    picture = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    square = folded(picture, 2)[1, 1, 0]
    np.testing.assert_array_equal(square, picture[1, 2:4, 0:2].reshape(-1))
    np.testing.assert_array_equal(folded(picture, 1), picture)


def test_what_does_not_divide_is_refused():
    with pytest.raises(UserError, match="2×2 pixels don't fit pictures of 3×4"):
        folded(PICTURE)
    with pytest.raises(UserError, match="8 channels don't fill squares of 3×3"):
        unfolded(PICTURE, 3)
