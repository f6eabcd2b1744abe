"""Inverse autoregressive flow: a posterior with a shape of its own (Kingma et al. 2016).

The encoder's Gaussian gives a first latent; a few steps, each an autoregressive network of the
latent so far, bend it. As every number depends on earlier ones only, the Jacobian is triangular and
its determinant a product; as all are known beforehand, a step is one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key
from jaxgen.families.vae.gaussian import DiagonalGaussian
from jaxgen.families.vae.masked_autoencoder import MaskedAutoencoder

Latents = Float[Array, "*samples batch latent"]
Context = Float[Array, "batch context"]
Flow = Callable[[Array, Array], tuple[Array, Array]]


class InverseAutoregressiveFlow(nn.Module):
    """Steps z ← σ z + (1 - σ) m, where m and σ see earlier variables (equations 10 to 14).

    steps: T; each takes the variables in the reverse of the order before.
    widths: hidden layers of each step's network.
    forget_bias: what σ's logit starts at. The networks' outputs start at 0, so that a step first
        shrinks the latent by sigmoid(forget_bias) and moves nothing: the larger, the closer to the
        identity; the paper asks for 1 to 2.
    """

    steps: int
    widths: tuple[int, ...]
    forget_bias: float = 2.0

    @nn.compact
    def __call__(self, latent: Latents, context: Context) -> tuple[Latents, Latents]:
        """The bent latents, and the log slopes: they sum to log |∂ bent / ∂ latent| in nats.

        A step's log slopes, log σ, are the logarithm of its Jacobian's diagonal.
        """
        slopes = jnp.zeros_like(latent)
        for step in range(self.steps):
            network = MaskedAutoencoder(
                outputs=2, widths=self.widths, reverse=step % 2 == 1, zero=True, name=f"step_{step}"
            )
            numbers = network(latent, context)
            mean, gate = numbers[..., 0, :], numbers[..., 1, :] + self.forget_bias
            # 1 - sigmoid(s) is sigmoid(-s), without the digits that the difference loses.
            latent = jax.nn.sigmoid(gate) * latent + jax.nn.sigmoid(-gate) * mean
            slopes += jax.nn.log_sigmoid(gate)
        return latent, slopes


@dataclass(frozen=True)
class InverseAutoregressivePosterior:
    """q(z | x): a Gaussian bent by a flow; a `Posterior` of `jaxgen.families.vae.objectives`.

    base: the encoder's Gaussian, (batch, latent).
    context: the encoder's further word on each row (h in the paper).
    flow: the network with its parameters, (latent, context) -> (latent, log slopes).
    """

    base: DiagonalGaussian
    context: Context
    flow: Flow

    def draw(
        self, key: Key, samples: int
    ) -> tuple[Float[Array, "samples batch latent"], Float[Array, "samples batch latent"]]:
        """So many latents of each row, and log q(z | x) in nats (algorithm 1).

        The density comes as one part for each entry, and means something as their sum: the base's
        density less the log slopes. Only latents drawn here have it for one pass: to undo a step
        takes a pass for every variable.
        """
        latent, density = self.base.draw(key, samples)
        bent, slopes = self.flow(latent, self.context)
        return bent, density - slopes
