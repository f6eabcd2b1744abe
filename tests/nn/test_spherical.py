"""Ways along a great circle."""

import jax.numpy as jnp
import numpy as np

from jaxgen.nn.spherical import spherical


def test_spherical_way_keeps_the_length_and_the_pace():
    start, end = jnp.array([2.0, 0.0, 0.0]), jnp.array([0.0, 2.0, 0.0])
    way = spherical(start, end, jnp.linspace(0, 1, 5))
    np.testing.assert_allclose(jnp.linalg.norm(way, axis=1), 2.0 * np.ones(5), rtol=1e-6)
    angles = np.arctan2(way[:, 1], way[:, 0])
    np.testing.assert_allclose(np.diff(angles), np.full(4, np.pi / 8), rtol=1e-5)
    straight = spherical(start, 3 * start, jnp.linspace(0, 1, 3))
    np.testing.assert_allclose(straight[:, 0], [2, 4, 6], rtol=1e-6)
