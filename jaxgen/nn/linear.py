"""A linear map of the last axes, the layer that most of a transformer's time goes to."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.parallel.sharding import gathered


def product(
    x: Float[Array, "rows inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "rows outputs"]:
    """x·kernel: what every layer here asks for as `linear.product`.

    By that name `quantized.py` puts another product in its place.
    """
    return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())))


class Linear(nn.Module):
    """y = x·kernel + bias over the last axes of x, like `nn.DenseGeneral`.

    outputs: the shape that each row gets, (hidden,) or (heads, depth).
    names: the kernel's logical axes, inputs before outputs.
    inputs: how many of the last axes of x are taken in.
    initializer: called with (inputs, outputs) multiplied out, so that fans are right.
    """

    outputs: tuple[int, ...]
    names: tuple[str | None, ...]
    inputs: int = 1
    bias: bool = True
    initializer: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "*rows_and_inputs"]) -> Float[Array, "*rows_and_outputs"]:
        """Maps each row by itself."""
        rows, taken = x.shape[: -self.inputs], x.shape[-self.inputs :]
        kernel, bias = self.weights(taken)
        size, made = math.prod(taken), math.prod(self.outputs)
        # One product of two matrices: with more axes, the kernel's gradient comes out transposed,
        # and turning it and its arguments around takes a quarter of a transformer's time on CPUs.
        y = product(x.astype(self.dtype).reshape(-1, size), kernel.reshape(size, made))
        if bias is not None:
            y = y + bias.reshape(1, made)
        y = y.reshape(*rows, *self.outputs)
        adapted = self.adaptation(x)
        return y if adapted is None else y + adapted

    def adaptation(
        self, x: Float[Array, "*rows_and_inputs"]
    ) -> Float[Array, "*rows_and_outputs"] | None:
        """What the low-rank adapter beside the kernel adds to y, or None where there is none.

        ((x·A)·B)·scale (Hu et al. 2022, equation 3); `low_rank.py` puts adapters in.
        """
        if not self.has_variable("params", "lora_a"):
            return None
        rows, taken = x.shape[: -self.inputs], x.shape[-self.inputs :]
        into, out_of, scale = (
            jnp.asarray(self.get_variable("params", name), self.dtype)
            for name in ("lora_a", "lora_b", "lora_scale")
        )
        rank = into.shape[-1]
        low = jnp.dot(x.astype(self.dtype).reshape(-1, math.prod(taken)), into.reshape(-1, rank))
        return (scale * jnp.dot(low, out_of.reshape(rank, -1))).reshape(*rows, *self.outputs)

    @nn.compact
    def weights(self, taken: tuple[int, ...]) -> tuple[Array, Array | None]:
        """The kernel (*taken, *outputs) for inputs of shape `taken`, and the bias (*outputs)."""
        size, made = math.prod(taken), math.prod(self.outputs)

        def initialize(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return self.initializer(key, (size, made), dtype).reshape(shape)

        named = nn.with_logical_partitioning(initialize, self.names)
        parameter: Any = self.param("kernel", named, (*taken, *self.outputs), jnp.float32)
        kernel = gathered(jnp.asarray(parameter, self.dtype), self.names)
        if not self.bias:
            return kernel, None
        names = self.names[len(taken) :]
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, names)
        bias: Any = self.param("bias", zeros, self.outputs, jnp.float32)
        return kernel, gathered(jnp.asarray(bias, self.dtype), names)
