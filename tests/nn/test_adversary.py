"""Each adversary's losses on logits whose losses are known."""

import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from jaxgen.nn.adversary import (
    HINGE,
    LEAST_SQUARES,
    MINIMAX,
    NON_SATURATING,
    RELATIVISTIC,
    WASSERSTEIN,
)

REAL = jnp.array([2.0, 0.5])
MADE = jnp.array([-3.0, 0.5])


def test_hinge_counts_what_lies_inside_the_margin():
    np.testing.assert_allclose(HINGE.discriminator(REAL, MADE), (0 + 0.5) / 2 + (0 + 1.5) / 2)
    np.testing.assert_allclose(HINGE.generator(REAL, MADE), 1.25)


def test_cross_entropies():
    undecided = jnp.zeros(2)
    np.testing.assert_allclose(
        NON_SATURATING.discriminator(undecided, undecided), 2 * np.log(2), rtol=1e-6
    )
    np.testing.assert_allclose(
        NON_SATURATING.generator(REAL, MADE), -np.log(sigmoid(MADE)).mean(), rtol=1e-5
    )
    # The same value, which one lowers and the other raises.
    np.testing.assert_allclose(
        MINIMAX.generator(REAL, MADE), np.log(1 - sigmoid(MADE)).mean(), rtol=1e-5
    )


def test_minimax_at_the_best_discriminator_is_the_jensen_shannon_divergence():
    """-log 4 + 2 JSD, on two densities over four points (Goodfellow et al. 2014, theorem 1)."""
    real = np.array([0.4, 0.3, 0.2, 0.1])
    made = np.array([0.1, 0.1, 0.3, 0.5])
    mean = (real + made) / 2
    divergence = (real * np.log(real / mean) + made * np.log(made / mean)).sum() / 2
    best = jnp.log(jnp.asarray(real / made))  # the logit of real / (real + made)
    rows = 1000
    drawn = [jnp.repeat(best, (share * rows).round().astype(int)) for share in (real, made)]
    np.testing.assert_allclose(
        -MINIMAX.discriminator(*drawn), -np.log(4) + 2 * divergence, rtol=1e-5
    )


def test_least_squares_is_nothing_at_its_labels():
    ones, zeros = jnp.ones(3), jnp.zeros(3)
    assert LEAST_SQUARES.discriminator(ones, zeros) == 0
    assert LEAST_SQUARES.generator(zeros, ones) == 0
    assert LEAST_SQUARES.generator(zeros, zeros) == 0.5


def test_the_relativistic_loss_sees_differences_alone():
    np.testing.assert_allclose(
        RELATIVISTIC.discriminator(REAL + 7, MADE + 7),
        RELATIVISTIC.discriminator(REAL, MADE),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        RELATIVISTIC.generator(REAL, MADE), RELATIVISTIC.discriminator(MADE, REAL), rtol=1e-6
    )


def test_wassersteins_critic_raises_real_ones_over_made_ones():
    np.testing.assert_allclose(WASSERSTEIN.discriminator(REAL, MADE), -1.25 - 1.25)
    np.testing.assert_allclose(WASSERSTEIN.generator(REAL, MADE), 1.25)
