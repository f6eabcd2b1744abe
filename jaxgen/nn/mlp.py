"""The transformer's position-wise networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.nn.linear import Linear
from jaxgen.nn.saved_tensors import MLP_HIDDEN, named

Activation = Callable[[Array], Array]


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """The Gaussian error linear unit, exact (Hendrycks & Gimpel 2016)."""
    # By erf: jax.nn.gelu's erfc is more exact far below 0, by less than 1e-6, and on a CPU takes
    # twice as long.
    return x * _normal_distribution(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    # Behind the barrier, so that the gradient works the distribution out again from x: that is
    # faster than to write it down in the forward pass, and to hold it until then.
    again = jax.lax.optimization_barrier(x)
    density = jnp.exp(-0.5 * jnp.square(again)) / math.sqrt(2 * math.pi)
    slope = _normal_distribution(again) + again * density
    return x * _normal_distribution(x), tangent * slope


def _normal_distribution(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    """GELU by its tanh approximation, which GPT-2's weights expect."""
    return jax.nn.gelu(x, approximate=True)


def squared_relu(x: Array) -> Array:
    """max(x, 0)², found by search in Primer (So et al. 2021)."""
    return jnp.square(jax.nn.relu(x))


class MLP(nn.Module):
    """Two layers with an activation between them, and dropout behind that."""

    hidden: int
    activation: Activation = gelu
    bias: bool = True
    dropout: float = 0.0
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*rows width"],
        real: Bool[Array, "*rows"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*rows width"]:
        """Maps each position by itself, real or not: `real` is for networks that make them share.

        Args:
            deterministic: switches dropout off.
        """
        hidden = _hidden(self, "up", x)
        hidden = nn.Dropout(self.dropout, deterministic=deterministic)(self.activation(hidden))
        down = _linear(self, "down", x.shape[-1], self.output_initializer, ("mlp", "embed"))
        return down(hidden)


class GatedMLP(nn.Module):
    """One layer gates another: SwiGLU with its default activation (Shazeer 2020)."""

    hidden: int
    activation: Activation = jax.nn.silu
    bias: bool = False
    dropout: float = 0.0
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*rows width"],
        real: Bool[Array, "*rows"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*rows width"]:
        """As `MLP`."""
        gate, up = _hidden(self, "gate", x), _hidden(self, "up", x)
        hidden = nn.Dropout(self.dropout, deterministic=deterministic)(self.activation(gate) * up)
        down = _linear(self, "down", x.shape[-1], self.output_initializer, ("mlp", "embed"))
        return down(hidden)


def _hidden(module: MLP | GatedMLP, name: str, x: Array) -> Array:
    layer = _linear(module, name, module.hidden, module.initializer, ("embed", "mlp"))
    return named(layer(x), MLP_HIDDEN)


def _linear(
    module: MLP | GatedMLP, name: str, features: int, initializer: Any, names: tuple[str, str]
) -> Linear:
    return Linear(
        (features,), names, 1, module.bias, initializer, module.dtype, name=name, parent=module
    )
