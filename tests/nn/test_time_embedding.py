import jax.numpy as jnp
import numpy as np

from jaxgen.nn.time_embedding import sinusoidal_embedding


def test_waves_from_one_radian_a_unit_to_the_longest():
    time = np.array([0.0, 1.0, 250.0], np.float32)
    found = sinusoidal_embedding(jnp.asarray(time), 4, longest=100.0)
    angles = time[:, None] * np.array([1.0, 0.1], np.float32)
    np.testing.assert_allclose(
        found, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5
    )
