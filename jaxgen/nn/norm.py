"""Normalization over the width of each position."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016), in float32 inside."""

    bias: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """Each position with mean 0 and variance 1 over the width, scaled and shifted."""
        width = x.shape[-1]
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.epsilon)
        normal = normal * _vector(self, "scale", nn.initializers.ones, width, x.ndim)
        if self.bias:
            normal = normal + _vector(self, "bias", nn.initializers.zeros, width, x.ndim)
        return normal.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang & Sennrich 2019), in float32 inside."""

    scale: bool = True
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """Each position with mean square 1 over the width, scaled where `scale` says so."""
        wide = x.astype(jnp.float32)
        square = jnp.square(wide).mean(-1, keepdims=True)
        normal = wide * jax.lax.rsqrt(square + self.epsilon)
        if self.scale:
            width = x.shape[-1]
            normal = normal * _vector(self, "scale", nn.initializers.ones, width, x.ndim)
        return normal.astype(x.dtype)


def _vector(
    module: nn.Module, name: str, initializer: Any, width: int, rank: int
) -> Float[Array, "*ones width"]:
    named = nn.with_logical_partitioning(initializer, (None,))
    vector: Any = module.param(name, named, (width,), jnp.float32)
    return vector.reshape((1,) * (rank - 1) + (width,))
