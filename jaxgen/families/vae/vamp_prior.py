"""The VampPrior: a mixture of the posteriors of learned pseudo-inputs (Tomczak & Welling 2018).

The best prior for an autoencoder is the mean of its posteriors over the data. This is that mean
over a few made-up pictures, which the bound itself draws to where they stand best for the data.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgen.families.vae.gaussian import DiagonalGaussian


class PseudoInputs(nn.Module):
    """Learned pictures in [-1, 1], u in the paper: what the encoder is shown to make the prior.

    count: K, the mixture's components.
    shape: of a picture, (height, width, channels).
    mean, deviation: of the Gaussian that entries start from; a mean near that of the data, so that
        the encoder has a use for them from the first step.
    """

    count: int
    shape: tuple[int, ...]
    mean: float = 0.0
    deviation: float = 0.1

    @nn.compact
    def __call__(self) -> Float[Array, "count *shape"]:
        """The pictures, entries clipped to [-1, 1] (the hard tanh; paper, section 5.2)."""

        def initialize(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
            return self.mean + self.deviation * jax.random.normal(key, shape)

        shape = (self.count, *self.shape)
        named = nn.with_logical_partitioning(initialize, (None,) * len(shape))
        entries: Any = self.param("pictures", named, shape)
        return nn.hard_tanh(entries)


@flax.struct.dataclass
class VampPrior:
    """p(z) = 1/K Σ q(z | u_k), equation 9.

    posteriors: what the encoder answers to the pseudo-inputs, mean (components, *latent). It is
        made anew in each step, so that gradients reach the encoder and the pseudo-inputs alike.
    """

    posteriors: DiagonalGaussian

    def log_probability(self, latent: Float[Array, "*rows"]) -> Float[Array, "..."]:
        """log density of latents (*rows, *latent) in nats, (*rows): over each latent as a whole."""
        components, *shape = self.posteriors.mean.shape
        axes = len(shape)
        rows = latent.shape[: latent.ndim - axes]
        spread = jnp.broadcast_to(jnp.expand_dims(latent, len(rows)), (*rows, components, *shape))
        densities = self.posteriors.log_probability(spread)
        each = densities.reshape(*rows, components, -1).sum(-1)
        return jax.nn.logsumexp(each, axis=-1) - np.log(components)

    def sample(self, key: PRNGKeyArray, count: int) -> Float[Array, "count *latent"]:
        """So many latents: of one component each, all components equally likely."""
        key_component, key_noise = jax.random.split(key)
        chosen = jax.random.randint(key_component, (count,), 0, self.posteriors.mean.shape[0])
        component: DiagonalGaussian = jax.tree.map(lambda leaf: leaf[chosen], self.posteriors)
        return component.sample(key_noise)
