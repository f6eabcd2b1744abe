"""Layers with an equalized learning rate: all parameters begin at N(0, 1) and are scaled when used.

Karras et al. 2018, "Progressive Growing of GANs" (arXiv 1710.10196), section 4.1: the scale is
1/√inputs. Adam moves every parameter about equally far, whatever its size; so a layer's scale
decides how fast it learns, and all learn alike.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.convolution import Picture
from jaxgen.nn.filtered_resampling import filtered, refuse_odd
from jaxgen.parallel.sharding import gathered


def equalized_kernel(
    module: nn.Module, shape: tuple[int, ...], names: tuple[str | None, ...], rate: float = 1.0
) -> Array:
    """The kernel of a module, call it inside: parameters N(0, 1/rate²), times rate / √inputs.

    shape: the inputs' axes, then one of outputs.
    names: the logical axes.
    rate: how much slower or faster than others the layer learns.
    """
    initializer = nn.with_logical_partitioning(nn.initializers.normal(1 / rate), names)
    kernel: Any = module.param("kernel", initializer, shape, jnp.float32)
    return gathered(kernel, names) * (rate / math.sqrt(math.prod(shape[:-1])))


def equalized_bias(
    module: nn.Module, features: int, name: str, start: float = 0.0, rate: float = 1.0
) -> Array:
    """The bias of a module, call it inside: begins at `start`, learns at `rate`.

    name: of its logical axis.
    """
    initializer = nn.with_logical_partitioning(nn.initializers.constant(start / rate), (name,))
    bias: Any = module.param("bias", initializer, (features,), jnp.float32)
    return bias * rate


class EqualizedLinear(nn.Module):
    """y = x·kernel + bias.

    features: of the answer.
    rate: how much slower or faster than others the layer learns.
    start: where the biases begin.
    names: the kernel's logical axes.
    dtype: of the computation; parameters stay float32.
    """

    features: int
    rate: float = 1.0
    start: float = 0.0
    names: tuple[str | None, str] = ("embed", "mlp")
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch {self.features}"]:
        """Maps each row by itself."""
        kernel = equalized_kernel(self, (x.shape[-1], self.features), self.names, self.rate)
        bias = equalized_bias(self, self.features, self.names[1], self.start, self.rate)
        product = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
        return product + bias.astype(self.dtype)[None]


class EqualizedConvolution(nn.Module):
    """A convolution with as many pixels out as in, or half as many along each axis.

    features: channels of the answer.
    size: of the kernel, odd.
    half: filters with [1, 3, 3, 1] and then takes steps of two pixels (`filtered_resampling`).
        `UserError` for an odd height or width.
    bias: whether there is one.
    dtype: of the computation; parameters stay float32.
    """

    features: int
    size: int = 3
    half: bool = False
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Float[Array, "batch rows columns {self.features}"]:
        """Maps each picture by itself."""
        shape = (self.size, self.size, picture.shape[-1], self.features)
        names = (None, None, "channels_in", "channels_out")
        kernel = equalized_kernel(self, shape, names).astype(self.dtype)
        picture, around, stride = picture.astype(self.dtype), self.size // 2, 1
        if self.half:
            refuse_odd(picture)
            # A 1×1 convolution needs only the pixels that are kept; a wider one filtered
            # surroundings as well.
            alone = self.size == 1
            picture = filtered(picture, 1 + around, 2 if alone else 1)
            around, stride = 0, 1 if alone else 2
        made = jax.lax.conv_general_dilated(
            picture,
            kernel,
            window_strides=(stride, stride),
            padding=[(around, around)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if not self.bias:
            return made
        bias = equalized_bias(self, self.features, "channels_out")
        return made + bias.astype(self.dtype)[None, None, None]
