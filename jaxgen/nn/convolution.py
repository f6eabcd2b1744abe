"""Convolutional layers with logical axis names: pictures are (batch, height, width, channels)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

Picture = Float[Array, "batch height width channels"]


def convolution(
    features: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    zero: bool = False,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution with "same" padding, `kernel` wide; call it inside a Linen module.

    zero: starts as the zero function, as the last layer of a residual branch should.
    dtype: of the computation; parameters stay float32.
    """
    initializer = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        # Symmetric whatever the stride: what PyTorch's `padding=kernel // 2` does.
        padding=kernel // 2,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(
            initializer, (None, None, "channels_in", "channels_out")
        ),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("channels_out",)),
        name=name,
    )


def group_norm(channels: int, *, dtype: Any = jnp.float32, name: str | None = None) -> nn.GroupNorm:
    """Group normalization (Wu & He 2018): 32 groups, or groups of 4 channels where they are few."""
    return nn.GroupNorm(
        num_groups=min(32, max(1, channels // 4)),
        epsilon=1e-5,
        dtype=dtype,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("channels_out",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("channels_out",)),
        name=name,
    )


def doubled(picture: Picture) -> Float[Array, "batch 2*height 2*width channels"]:
    """Each pixel becomes a 2×2 square (nearest neighbour)."""
    batch, height, width, channels = picture.shape
    spread = jnp.broadcast_to(
        picture[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
    )
    return spread.reshape(batch, 2 * height, 2 * width, channels)
