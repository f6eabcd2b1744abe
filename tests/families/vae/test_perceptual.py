import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.families.vae.perceptual import perceptual_distance

ONE, OTHER = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 5))


def halves(picture):
    """Two layers of features: the picture itself, and a part of it."""
    return picture, picture[:, ::2, ::2, :2]


def test_it_is_twice_one_less_the_cosine_of_features():
    def expected(one, other):
        dot = (one * other).sum(-1)
        lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
        return (2 - 2 * dot / lengths).mean((1, 2))

    pairs = zip(*(map(np.asarray, halves(each)) for each in (ONE, OTHER)), strict=True)
    total = sum(expected(one, other) for one, other in pairs)
    np.testing.assert_allclose(perceptual_distance(halves, ONE, OTHER), total, rtol=1e-4)
    np.testing.assert_array_equal(perceptual_distance(halves, ONE, ONE), 0)


def test_lengths_of_features_do_not_count_and_weights_do():
    distance = perceptual_distance(lambda picture: [picture], ONE, OTHER)
    scaled = perceptual_distance(lambda picture: [picture], ONE, 3 * OTHER)
    np.testing.assert_allclose(distance, scaled, rtol=1e-4)
    parts = [
        perceptual_distance(lambda picture: [picture], ONE, OTHER, [jax.nn.one_hot(channel, 5)])
        for channel in range(5)
    ]
    np.testing.assert_allclose(sum(parts), distance, rtol=1e-5)
    with pytest.raises(UserError, match="weights for 1 layers, and the network gives 2"):
        perceptual_distance(halves, ONE, OTHER, [jnp.ones(5)])


def test_features_that_are_all_zero_have_a_gradient():
    slope = jax.grad(lambda one: perceptual_distance(lambda x: [x], one, OTHER).sum())(0 * ONE)
    assert jnp.all(jnp.isfinite(slope))
