"""Each penalty on critics whose slopes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.families.gan.penalties import (
    balanced_consistency,
    consistency,
    gradient_penalty,
    r1,
    r2,
    squared_slopes,
)

KEY = jax.random.key(0)
REAL = jax.random.normal(jax.random.key(1), (6, 3, 2))
MADE = 2 + jax.random.normal(jax.random.key(2), (6, 3, 2))
DIRECTION = jax.random.normal(jax.random.key(3), (6,))
DIRECTION = DIRECTION / jnp.linalg.norm(DIRECTION)


def sloping(slope):
    """A critic that rises by `slope` along one direction, from 5."""
    return lambda things: 5 + slope * (things.reshape(-1, 6) @ DIRECTION)


def quadratic(things):
    """D(x) = ‖x‖² / 2, whose slope at x is x itself."""
    return jnp.sum(jnp.square(things), axis=(1, 2)) / 2


def summed(things):
    return things.sum((1, 2))


def squared_norm(things):
    return float(np.square(np.asarray(things)).sum((1, 2)).mean())


@pytest.mark.parametrize(("slope", "penalty"), [(1, 0.0), (2, 1.0), (0.5, 0.25), (0, 1.0)])
def test_the_gradient_penalty_is_the_squared_distance_from_slope_one(slope, penalty):
    found = gradient_penalty(sloping(slope), REAL, MADE, KEY)
    assert float(found) == pytest.approx(penalty, abs=1e-5)


def test_a_critic_that_ignores_its_input_has_a_finite_gradient():
    """Where ‖∇D‖ is 0 its own slope would be infinite."""
    moved = jax.grad(lambda slope: gradient_penalty(sloping(slope), REAL, MADE, KEY))(0.0)
    assert np.isfinite(moved)


def test_the_gradient_penalty_looks_between_real_and_made():
    """On a line, where all lies between 3 and 4, D(x) = x²/2 is between 2² and 3² off."""
    ends = jnp.full((500, 1), 3.0), jnp.full((500, 1), 4.0)
    found = gradient_penalty(lambda things: things[:, 0] ** 2 / 2, *ends, KEY)
    # The mean of (x - 1)² for x uniform in [3, 4]: (3³ - 2³) / 3, within four standard errors.
    assert float(found) == pytest.approx(19 / 3, abs=4 * 1.46 / np.sqrt(500))


def test_r1_and_r2_are_the_squared_norms_of_a_quadratic_critics_places():
    assert float(r1(quadratic, REAL, MADE, KEY)) == pytest.approx(squared_norm(REAL), rel=1e-5)
    assert float(r2(quadratic, REAL, MADE, KEY)) == pytest.approx(squared_norm(MADE), rel=1e-5)
    np.testing.assert_allclose(squared_slopes(sloping(3), REAL), np.full(6, 9.0), rtol=1e-5)


def test_slopes_of_several_logits_are_those_of_their_sum():
    """A patch critic of two logits, of slopes 1 and 2 the same way: 3² in all."""

    def patches(things):
        return jnp.stack([sloping(1)(things), sloping(2)(things)], axis=1)

    np.testing.assert_allclose(squared_slopes(patches, REAL), np.full(6, 9.0), rtol=1e-5)


def first_flipped(key, things):
    """A change of the first column's sign."""
    return things.at[:, :, 0].multiply(-1)


def test_consistency_is_nothing_for_a_critic_that_the_change_does_not_touch():
    for held in (consistency(first_flipped), balanced_consistency(first_flipped)):
        assert float(held(quadratic, REAL, MADE, KEY)) == pytest.approx(0, abs=1e-8)


def test_consistency_is_the_squared_change_of_the_logits():
    """D sums everything, so that the flip changes it by twice the first column."""
    of_real, of_made = (
        float((4 * np.square(np.asarray(things)[:, :, 0].sum(1))).mean()) for things in (REAL, MADE)
    )
    found = consistency(first_flipped)(summed, REAL, MADE, KEY)
    assert float(found) == pytest.approx(of_real, rel=1e-5)
    found = balanced_consistency(first_flipped)(summed, REAL, MADE, KEY)
    assert float(found) == pytest.approx(of_real + of_made, rel=1e-5)


def test_balanced_consistency_changes_real_and_made_by_keys_of_their_own():
    def blurred(key, things):
        return things + jax.random.normal(key, things.shape)

    found = balanced_consistency(blurred)(summed, REAL, REAL, KEY)
    one, other = (
        float(consistency(blurred)(summed, REAL, REAL, key)) for key in jax.random.split(KEY)
    )
    assert float(found) == pytest.approx(one + other, rel=1e-5) and one != other
