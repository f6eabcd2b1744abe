"""The transformer's position-wise networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]


def gelu(x: Array) -> Array:
    """The Gaussian error linear unit, exact (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """GELU by its tanh approximation, which GPT-2's weights expect."""
    return jax.nn.gelu(x, approximate=True)


def squared_relu(x: Array) -> Array:
    """max(x, 0)², found by search in Primer (So et al. 2021)."""
    return jnp.square(jax.nn.relu(x))


class MLP(nn.Module):
    """Two layers with an activation between them."""

    hidden: int
    activation: Activation = gelu
    bias: bool = True
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """Maps each position by itself."""
        hidden = _dense(self, "up", self.hidden, self.initializer, ("embed", "mlp"))(x)
        hidden = self.activation(hidden)
        down = _dense(self, "down", x.shape[-1], self.output_initializer, ("mlp", "embed"))
        return down(hidden)


class GatedMLP(nn.Module):
    """One layer gates another: SwiGLU with its default activation (Shazeer 2020)."""

    hidden: int
    activation: Activation = jax.nn.silu
    bias: bool = False
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """Maps each position by itself."""
        gate = _dense(self, "gate", self.hidden, self.initializer, ("embed", "mlp"))(x)
        up = _dense(self, "up", self.hidden, self.initializer, ("embed", "mlp"))(x)
        hidden = self.activation(gate) * up
        down = _dense(self, "down", x.shape[-1], self.output_initializer, ("mlp", "embed"))
        return down(hidden)


def _dense(
    module: MLP | GatedMLP, name: str, features: int, initializer: Any, names: tuple[str, str]
) -> nn.Dense:
    return nn.Dense(
        features,
        use_bias=module.bias,
        dtype=module.dtype,
        kernel_init=nn.with_logical_partitioning(initializer, names),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, names[1:]),
        name=name,
        parent=module,
    )
