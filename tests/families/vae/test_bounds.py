"""The bounds, on a linear-Gaussian model whose evidence is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import MODEL, TRUE, evidence, keys, observe, observed, wrong

from jaxgen.experiment import Context
from jaxgen.families.vae.gaussian import standard_normal
from jaxgen.families.vae.objectives import (
    analytic_bound_loss,
    constant,
    doubly_reparameterized_loss,
    importance_weighted_loss,
    sampled_bound_loss,
    scaled_gradient,
    warm_up,
)

X = observed(6)
EVIDENCE = evidence(X).mean()


def prior(params, posterior):
    return standard_normal(posterior.mean.shape)


def outputs(loss, params, count, step=0):
    def one(key):
        context = Context(batch={"x": X}, key=key, step=step, variables={}, ema=params)
        return loss(params, context)

    return jax.jit(jax.vmap(one))(keys(count))


def gradients(loss, params, count):
    def one(key):
        def value(params):
            context = Context(batch={"x": X}, key=key, step=0, variables={}, ema=params)
            return loss(params, context).value

        return jax.grad(value)(params)

    return jax.jit(jax.vmap(one))(keys(count))


@pytest.mark.parametrize(
    "loss",
    [
        sampled_bound_loss(MODEL, observe),
        importance_weighted_loss(MODEL, observe, 1),
        importance_weighted_loss(MODEL, observe, 7),
        doubly_reparameterized_loss(MODEL, observe, 7),
    ],
)
def test_at_the_true_posterior_every_draw_is_the_evidence(loss):
    found = outputs(loss, TRUE, 5).value
    np.testing.assert_allclose(found, np.full(5, -EVIDENCE), rtol=1e-5)


def test_analytic_bound_is_the_evidence_on_average():
    found = outputs(analytic_bound_loss(MODEL, prior, observe, samples=4), TRUE, 4000)
    error = np.std(found.value) / np.sqrt(4000)
    assert abs(found.value.mean() + EVIDENCE) < 4 * error + 1e-4
    np.testing.assert_allclose(found.value, found.metrics["bound"], rtol=1e-6)


def test_analytic_and_sampled_bounds_agree_away_from_it():
    params = wrong()
    one = outputs(analytic_bound_loss(MODEL, prior, observe), params, 8000)
    other = outputs(sampled_bound_loss(MODEL, observe), params, 8000)
    error = np.hypot(np.std(one.value), np.std(other.value)) / np.sqrt(8000)
    assert abs(one.value.mean() - other.value.mean()) < 4 * error
    np.testing.assert_allclose(one.metrics["rate"].mean(), other.metrics["rate"].mean(), rtol=0.02)


def test_the_bound_grows_with_the_samples_towards_the_evidence():
    params = wrong()
    means = [
        -outputs(importance_weighted_loss(MODEL, observe, k), params, 2000).value.mean()
        for k in (1, 2, 8, 64)
    ]
    assert means[0] < means[1] < means[2] < means[3] < EVIDENCE
    assert EVIDENCE - means[3] < 0.2 * (EVIDENCE - means[0])


def test_double_reparameterization_has_the_same_mean_gradient_and_less_noise():
    params = wrong()
    plain = gradients(importance_weighted_loss(MODEL, observe, 5), params, 8000)
    better = gradients(doubly_reparameterized_loss(MODEL, observe, 5), params, 8000)
    for name in params:
        error = np.sqrt((np.var(plain[name], 0) + np.var(better[name], 0)) / 8000)
        gap = np.abs(plain[name].mean(0) - better[name].mean(0))
        assert (gap < 4.5 * error + 1e-6).all(), name
    noisy = sum(np.var(plain[name], 0).sum() for name in ("gain", "offset", "log_deviation"))
    quiet = sum(np.var(better[name], 0).sum() for name in ("gain", "offset", "log_deviation"))
    assert quiet < 0.5 * noisy
    # At the true posterior its encoder has nothing to learn, whatever is drawn.
    still = gradients(doubly_reparameterized_loss(MODEL, observe, 5), TRUE, 20)
    assert all(np.abs(still[name]).max() < 1e-4 for name in ("gain", "offset", "log_deviation"))


def test_beta_and_free_nats_weigh_the_divergence():
    params = wrong()
    plain = outputs(analytic_bound_loss(MODEL, prior, observe), params, 1)
    halved = outputs(analytic_bound_loss(MODEL, prior, observe, beta=constant(0.5)), params, 1)
    rate = plain.metrics["rate"]
    np.testing.assert_allclose(halved.value, plain.value - 0.5 * rate, rtol=1e-5)
    free = analytic_bound_loss(MODEL, prior, observe, free_nats=100.0)
    charged = outputs(free, params, 1)
    np.testing.assert_allclose(charged.value, charged.metrics["distortion"] + 300, rtol=1e-5)
    flat = gradients(free, params, 1)
    exact = gradients(analytic_bound_loss(MODEL, prior, observe, beta=constant(0.0)), params, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), flat, exact)


def test_warm_up_rises_to_its_highest():
    schedule = warm_up(10, highest=2.0)
    assert [float(schedule(step)) for step in (0, 4, 9, 50)] == pytest.approx([0.2, 1, 2, 2])


def test_scaled_gradient_leaves_the_value():
    latent, scale = jnp.arange(12.0).reshape(2, 3, 2), jnp.arange(6.0).reshape(2, 3)
    value, pull = jax.vjp(lambda latent: scaled_gradient(latent, scale), latent)
    np.testing.assert_array_equal(value, latent)
    np.testing.assert_array_equal(pull(jnp.ones_like(latent))[0], np.repeat(scale[..., None], 2, 2))
