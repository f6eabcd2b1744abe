import jax.numpy as jnp
import numpy as np

from jaxgen.nn.fourier_features import fourier_features


def test_nearness_falls_as_the_gaussian_kernel_does():
    """The mean of cos(B(x - y)) over B from N(0, s²) is exp(-s²|x - y|²/2)."""
    see = fourier_features(2, 4000, deviation=3.0)
    points = jnp.array([[0.0, 0.0], [0.1, 0.2], [1.0, -0.3]])
    seen = np.asarray(see(points))
    for index in (1, 2):
        distance = float(jnp.sum((points[0] - points[index]) ** 2))
        np.testing.assert_allclose(
            seen[0] @ seen[index] / 4000, np.exp(-9 * distance / 2), atol=0.04
        )
