"""Convolutions that halve or double a picture, with gradients that are fast to any order.

Strided and transposed convolution, and the gradient by the kernel that both share, are three
bilinear maps, and the derivative of each is made of the other two. XLA doesn't know: left to itself
it differentiates a transposed convolution by its kernel through a dilated window that takes ten
times as long on CPUs, and a gradient penalty meets the same window in strided ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.convolution import Picture
from jaxgen.parallel.sharding import gathered

# What a kernel takes in and gives, in the direction of `strided`.
Large = Float[Array, "batch height width channels"]
Small = Float[Array, "batch small_height small_width features"]
Kernel = Float[Array, "rows columns channels features"]
Window = tuple[int, int]  # its stride, and the zeros on all four sides

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def strided(window: Window, picture: Large, kernel: Kernel) -> Small:
    """The convolution of a picture, in steps of the stride.

    Reverse-mode derivatives only, of any order. Raises `UserError` where the last step leaves
    pixels over.
    """
    stride, padding = window
    height, width = picture.shape[1:3]
    if (height + 2 * padding - kernel.shape[0]) % stride or (
        width + 2 * padding - kernel.shape[1]
    ) % stride:
        raise UserError(
            f"A picture of {height}×{width} can't be gone through in steps of {stride}: take "
            "another resolution, or fewer layers."
        )
    return _convolution(window, picture, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def transposed(window: Window, picture: Small, kernel: Kernel) -> Large:
    """The adjoint of `strided` with the same kernel, which here takes its features to channels.

    What PyTorch calls `conv_transpose2d`; a picture `stride` times as large where the kernel is
    two strides wide. Derivatives as there.
    """
    stride, padding = window
    rows, columns = kernel.shape[:2]
    above, left = rows - 1 - padding, columns - 1 - padding
    return jax.lax.conv_general_dilated(
        picture,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        ((above, above), (left, left)),
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _kernel_slope(window: Window, size: tuple[int, int], picture: Large, slope: Small) -> Kernel:
    """The gradient of <slope, strided(picture, kernel)> by the kernel, `size` its sides."""
    shape = (*size, picture.shape[-1], slope.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, picture.dtype)
    return jax.linear_transpose(partial(_convolution, window, picture), kernel)(slope)[0]


def _convolution(window: Window, picture: Large, kernel: Kernel) -> Small:
    stride, padding = window
    zeros = (padding, padding)
    return jax.lax.conv_general_dilated(
        picture, kernel, (stride, stride), (zeros, zeros), dimension_numbers=_LAYOUT
    )


def _strided_forward(window: Window, picture: Large, kernel: Kernel) -> Any:
    return strided(window, picture, kernel), (picture, kernel)


def _strided_backward(window: Window, known: Any, slope: Small) -> Any:
    picture, kernel = known
    by_kernel = _kernel_slope(window, kernel.shape[:2], picture, slope)
    return transposed(window, slope, kernel), by_kernel


def _transposed_forward(window: Window, picture: Small, kernel: Kernel) -> Any:
    return transposed(window, picture, kernel), (picture, kernel)


def _transposed_backward(window: Window, known: Any, slope: Large) -> Any:
    picture, kernel = known
    by_kernel = _kernel_slope(window, kernel.shape[:2], slope, picture)
    return strided(window, slope, kernel), by_kernel


def _kernel_slope_forward(
    window: Window, size: tuple[int, int], picture: Large, slope: Small
) -> Any:
    return _kernel_slope(window, size, picture, slope), (picture, slope)


def _kernel_slope_backward(
    window: Window, size: tuple[int, int], known: Any, kernel: Kernel
) -> Any:
    picture, slope = known
    return transposed(window, slope, kernel), strided(window, picture, kernel)


strided.defvjp(_strided_forward, _strided_backward)
transposed.defvjp(_transposed_forward, _transposed_backward)
_kernel_slope.defvjp(_kernel_slope_forward, _kernel_slope_backward)


class HalvingConvolution(nn.Module):
    """A 4×4 convolution in steps of 2: half the resolution. `UserError` for odd sides.

    features: channels of the answer.
    initializer: of the kernel.
    dtype: of the computation; parameters stay float32.
    """

    features: int
    bias: bool = True
    initializer: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Float[Array, "batch half_height half_width features"]:
        """(batch, height, width, channels) -> (batch, height/2, width/2, features)."""
        names = (None, None, "channels_in", "channels_out")
        named = nn.with_logical_partitioning(self.initializer, names)
        shape = (4, 4, picture.shape[-1], self.features)
        kernel: Any = self.param("kernel", named, shape, jnp.float32)
        kernel = gathered(jnp.asarray(kernel, self.dtype), names)
        made = strided((2, 1), picture.astype(self.dtype), kernel)
        return _shifted(self, made)


class DoublingConvolution(nn.Module):
    """A 4×4 transposed convolution in steps of 2: twice the resolution.

    The kernel is (4, 4, channels, features); other fields as `HalvingConvolution`'s.
    """

    features: int
    bias: bool = True
    initializer: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Float[Array, "batch 2*height 2*width features"]:
        """(batch, height, width, channels) -> (batch, 2·height, 2·width, features)."""
        names = (None, None, "channels_in", "channels_out")
        named = nn.with_logical_partitioning(self.initializer, names)
        shape = (4, 4, picture.shape[-1], self.features)
        kernel: Any = self.param("kernel", named, shape, jnp.float32)
        kernel = gathered(jnp.asarray(kernel, self.dtype), names).swapaxes(2, 3)
        return _shifted(self, transposed((2, 1), picture.astype(self.dtype), kernel))


def _shifted(layer: HalvingConvolution | DoublingConvolution, made: Picture) -> Picture:
    if not layer.bias:
        return made
    named = nn.with_logical_partitioning(nn.initializers.zeros, ("channels_out",))
    bias: Any = layer.param("bias", named, (layer.features,), jnp.float32)
    return made + jnp.asarray(bias, layer.dtype)[None, None, None]
