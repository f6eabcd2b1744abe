"""Convolutions whose kernels are scaled for each picture by its style.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958),
section 2.2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.convolution import Picture
from jaxgen.nn.filtered_resampling import filtered


def modulated_convolution(
    picture: Picture,
    kernel: Float[Array, "size size channels made"],
    style: Float[Array, "batch channels"],
    *,
    demodulate: bool = True,
    double: bool = False,
) -> Float[Array, "batch rows columns made"]:
    """Convolves each picture with its own kernel, style[channel] · kernel[..., channel, :].

    The paper's equation 1, and 3 where demodulated. Here the picture is scaled before one
    convolution that all share, and its outcome after it: the same function, without a kernel for
    each picture.

    kernel: of odd size; zeros around the picture keep its size.
    demodulate: divides by the scaled kernel's length, so that pictures of independent pixels of
        variance 1 keep it.
    double: at twice the height and width: zeros between pixels, then the convolution, then the
        filter [1, 3, 3, 1] (`filtered_resampling`).
    """
    size, dtype = kernel.shape[0], picture.dtype
    # Doubled, the pixels lie 2 apart with one zero less than pixels, and the filter, with its own
    # padding of 1, makes 2n + 1 places to 2n.
    padding = size // 2 + 1 if double else size // 2
    made = jax.lax.conv_general_dilated(
        picture * style.astype(dtype)[:, None, None],
        kernel.astype(dtype),
        window_strides=(1, 1),
        padding=[(padding, padding)] * 2,
        lhs_dilation=(2, 2) if double else None,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if double:
        made = 4 * filtered(made, 1)
    if demodulate:
        squares = jnp.square(kernel.astype(jnp.float32)).sum((0, 1))
        of_style = jnp.square(style.astype(jnp.float32))
        squares = jnp.dot(of_style, squares, precision=jax.lax.Precision.HIGHEST)
        made = made * jax.lax.rsqrt(squares + 1e-8).astype(dtype)[:, None, None]
    return made
