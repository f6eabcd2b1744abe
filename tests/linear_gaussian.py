"""A latent-variable model whose every quantity is known: z ~ N(0, 1), x | z ~ N(W z + b, σ²)."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxgen.families.vae.gaussian import DiagonalGaussian, standard_normal
from jaxgen.families.vae.objectives import LatentVariableModel, over_entries

DEVIATION = 0.7
# Orthogonal columns, so that the true posterior has independent entries.
LOADINGS = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 3)))[0] * [0.5, 1.0, 2.0]
BIAS = np.array([0.3, -0.2, 0.1, 0.5])

# The encoder is affine: exact at `TRUE`.
PRECISION = 1 + np.square(LOADINGS).sum(0) / DEVIATION**2
GAIN = LOADINGS / DEVIATION**2 / PRECISION
TRUE = {
    "loadings": jnp.asarray(LOADINGS, jnp.float32),
    "gain": jnp.asarray(GAIN, jnp.float32),
    "offset": jnp.asarray(-BIAS @ GAIN, jnp.float32),
    "log_deviation": jnp.asarray(-0.5 * np.log(PRECISION), jnp.float32),
}


def wrong(amount=0.3):
    """A posterior that isn't the true one."""
    noise = np.random.default_rng(1)
    return TRUE | {
        name: TRUE[name] + jnp.asarray(amount * noise.normal(size=TRUE[name].shape), jnp.float32)
        for name in ("gain", "offset", "log_deviation")
    }


def infer(params, observed):
    mean = observed @ params["gain"] + params["offset"][None]
    return DiagonalGaussian(mean, jnp.broadcast_to(params["log_deviation"], mean.shape))


def likelihood(params, latent):
    mean = latent @ params["loadings"].T + jnp.asarray(BIAS, jnp.float32).reshape(
        *[1] * (latent.ndim - 1), -1
    )
    return DiagonalGaussian(mean, jnp.full(mean.shape, np.log(DEVIATION)))


MODEL = LatentVariableModel(
    infer=infer,
    log_prior=lambda params, z: over_entries(standard_normal(z.shape).log_probability(z)),
    log_likelihood=lambda params, x, z: over_entries(
        likelihood(params, z).log_probability(jnp.broadcast_to(x, (z.shape[0], *x.shape)))
    ),
)


def observed(count):
    """Items from the model itself."""
    draws = np.random.default_rng(2).normal(size=(count, 3))
    noise = np.random.default_rng(3).normal(size=(count, 4))
    return jnp.asarray(draws @ LOADINGS.T + BIAS + DEVIATION * noise, jnp.float32)


def evidence(items):
    """log p(x) of each, exactly."""
    covariance = LOADINGS @ LOADINGS.T + DEVIATION**2 * np.eye(4)
    return scipy.stats.multivariate_normal(BIAS, covariance).logpdf(np.asarray(items))


def observe(batch, key):
    return batch["x"]


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)
