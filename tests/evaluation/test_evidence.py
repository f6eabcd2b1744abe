"""Estimates of log p(x), where it is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import MODEL, TRUE, evidence, likelihood, observed, wrong

from jaxgen.errors import UserError
from jaxgen.evaluation.likelihood import (
    annealed_importance_sampling,
    bits_per_dimension,
    importance_weighted_bound,
)

X = observed(7)


def bound(params, samples, chunk, rows=4):
    return importance_weighted_bound(
        MODEL.log_weights, params, jax.random.key(0), X, samples, chunk, rows
    )


def test_bound_is_exact_at_the_true_posterior():
    np.testing.assert_allclose(bound(TRUE, 6, 3), evidence(X), rtol=1e-5)


def test_bound_approaches_the_evidence_from_below():
    few, many = bound(wrong(), 10, 5).mean(), bound(wrong(), 5000, 50).mean()
    assert few < many < evidence(X).mean() + 0.02
    assert many == pytest.approx(evidence(X).mean(), abs=0.05)


def test_chunks_that_do_not_divide_are_made_smaller():
    np.testing.assert_array_equal(bound(wrong(), 10, 4), bound(wrong(), 10, 2))


def test_no_samples_make_no_bound():
    with pytest.raises(UserError, match="at least 1 sample at a time, not 0 by 3"):
        bound(TRUE, 0, 3)


def test_bits_per_dimension():
    assert bits_per_dimension(784 * math.log(256), 784) == pytest.approx(8.0)


def test_annealing_finds_the_evidence():
    def log_likelihood(latent):
        return (
            likelihood(TRUE, latent)
            .log_probability(jnp.broadcast_to(X, (latent.shape[0], *X.shape)))
            .sum(-1)
        )

    found = jax.jit(
        lambda key: annealed_importance_sampling(
            log_likelihood, key, items=len(X), latent=3, chains=64, temperatures=300
        )
    )(jax.random.key(1))
    np.testing.assert_allclose(found.log_evidence, evidence(X), atol=0.15)
    assert 0.5 < found.acceptance < 0.95
