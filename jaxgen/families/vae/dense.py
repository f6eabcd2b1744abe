"""The fully connected encoder and decoder of Burda et al. 2015 (section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.families.vae.gaussian import DiagonalGaussian
from jaxgen.nn.linear import Linear

Activation = Any


class DenseEncoder(nn.Module):
    """Hidden layers, then mean and log deviation of a `DiagonalGaussian` over the latent.

    latent: entries of z.
    hidden: widths of the hidden layers.
    """

    latent: int
    hidden: Sequence[int] = (200, 200)
    activation: Activation = jnp.tanh

    @nn.compact
    def __call__(self, observed: Float[Array, "batch *item"]) -> DiagonalGaussian:
        """x (batch, ...) -> q(z | x), entries (batch, latent)."""
        x = observed.reshape(observed.shape[0], -1)
        x = _hidden(x, self.hidden, self.activation)
        mean = _linear(self.latent, "mean")(x)
        return DiagonalGaussian(mean, _linear(self.latent, "log_deviation")(x))


class DenseDecoder(nn.Module):
    """Hidden layers, then one number for each entry of an item: logits, or means.

    item: shape of an item, (28, 28, 1).
    hidden: widths of the hidden layers.
    bias: what the output begins with everywhere, (*item), or None for 0.
    """

    item: tuple[int, ...]
    hidden: Sequence[int] = (200, 200)
    activation: Activation = jnp.tanh
    bias: Any = None

    @nn.compact
    def __call__(self, latent: Float[Array, "*rows latent"]) -> Float[Array, "*rows_and_item"]:
        """z (..., latent) -> (..., *item)."""
        x = _hidden(latent, self.hidden, self.activation)
        out = _linear(math.prod(self.item), "out")(x).reshape(*latent.shape[:-1], *self.item)
        if self.bias is None:
            return out
        start = jnp.asarray(self.bias, out.dtype)
        return out + start.reshape(*[1] * (latent.ndim - 1), *self.item)


def _hidden(x: Array, widths: Sequence[int], activation: Activation) -> Array:
    for index, width in enumerate(widths):
        x = activation(_linear(width, f"hidden_{index}")(x))
    return x


def _linear(width: int, name: str) -> Linear:
    glorot = jax.nn.initializers.glorot_uniform()
    return Linear((width,), ("embed", "mlp"), initializer=glorot, name=name)
