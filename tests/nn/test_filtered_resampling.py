import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.filtered_resampling import filtered_double, filtered_half

PICTURE = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))


def test_interpolating_is_bilinear_with_zeros_beyond_the_border():
    framed = np.pad(PICTURE, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = jax.image.resize(framed, (2, 10, 12, 8), "linear")[:, 2:-2, 2:-2]
    np.testing.assert_allclose(filtered_double(PICTURE), expected, atol=1e-5)


def test_smoothing_is_a_quarter_of_interpolations_transpose():
    large = jax.random.normal(jax.random.key(1), (2, 6, 8, 8))
    one = jnp.vdot(filtered_double(PICTURE), large)
    np.testing.assert_allclose(one, 4 * jnp.vdot(PICTURE, filtered_half(large)), rtol=1e-4)
    # A flat picture stays flat, its border apart.
    np.testing.assert_allclose(filtered_half(jnp.ones((1, 8, 8, 1)))[:, 1:-1, 1:-1], 1, atol=1e-6)


def test_odd_sides_are_refused():
    with pytest.raises(UserError, match="3×4 pixels can't be halved"):
        filtered_half(PICTURE)
