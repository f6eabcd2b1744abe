"""Convolutional layers with logical axis names: pictures are (batch, height, width, channels)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.parallel.sharding import gathered

Picture = Float[Array, "batch height width channels"]


# The logical axes of a kernel.
KERNEL = (None, None, "channels_in", "channels_out")


def convolved(
    picture: Picture,
    kernel: Float[Array, "tall wide channels_in_a_group features"],
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "batch rows columns features"]:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, of a kernel gathered before its use."""
    return jax.lax.conv_general_dilated(
        picture,
        gathered(kernel, KERNEL),
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def convolution(
    features: int,
    kernel: int | tuple[int, int] = 3,
    *,
    stride: int = 1,
    padding: int | Sequence[tuple[int, int]] | None = None,
    groups: int = 1,
    bias: bool = True,
    zero: bool = False,
    gain: float = 1.0,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A convolution, `kernel` wide or (height, width); call it inside a Linen module.

    padding: zeros on all four sides, or ((above, below), (left, right)); by default half the
        kernel ("same"), and 0 is "valid".
    groups: equal parts of the channels, each seen by its own part of the features only; it must
        divide both. On CPUs, XLA takes about ten times as long for the gradient of 4 groups as for
        that of one.
    zero: starts as the zero function, as the last layer of a residual branch should.
    gain: multiplies the spread of the initial kernel, as 1/√depth does for the last layers of a
        deep residual network's branches, which then add up to one.
    dtype: of the computation; parameters stay float32.
    """
    # LeCun's normal initialization at gain 1.
    spread = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
    initializer = nn.initializers.zeros if zero else spread
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    # Symmetric whatever the stride: what PyTorch's `padding=kernel // 2` does.
    same = ((height // 2, height // 2), (width // 2, width // 2))
    return nn.Conv(
        features,
        (height, width),
        conv_general_dilated=convolved,
        strides=stride,
        padding=same if padding is None else padding,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(initializer, KERNEL),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("channels_out",)),
        name=name,
    )


class GroupNorm(nn.Module):
    """Group normalization (Wu & He 2018): 32 groups, or groups of 4 channels where they are few.

    Parameters as Flax's own. Here everything about a group is worked out on (batch, channels), and
    the picture itself is only multiplied and added to once: on CPUs that takes half the time.

    groups: another number of them; `UserError` unless it divides the channels.
    epsilon: added to the variance.
    dtype: of the answer; the statistics are float32.
    """

    groups: int | None = None
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        picture: Picture,
        scale: Float[Array, "batch channels"] | None = None,
        shift: Float[Array, "batch channels"] | None = None,
    ) -> Picture:
        """Normalizes; given a scale and a shift for each picture, times (1 + scale) plus shift."""
        _, height, width, channels = picture.shape
        groups = min(32, max(1, channels // 4)) if self.groups is None else self.groups
        if channels % groups:
            raise UserError(
                f"{channels} channels can't be normalized in {groups} equal groups: take another "
                "width or another number of groups."
            )
        gain: Any = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.ones, ("channels_out",)),
            (channels,),
        )
        bias: Any = self.param(
            "bias",
            nn.with_logical_partitioning(nn.initializers.zeros, ("channels_out",)),
            (channels,),
        )

        # Groups are gathered and spread by small products with this, which tells which channel is
        # whose: a reshaped sum would be worked out anew for each place of the picture.
        member = jnp.repeat(jnp.eye(groups), channels // groups, axis=1)
        exact = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
        values = picture.astype(jnp.float32)
        entries = height * width * channels // groups
        mean = exact(values.sum((1, 2)), member.T) / entries
        variance = exact(jnp.square(values).sum((1, 2)), member.T) / entries - jnp.square(mean)
        inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.epsilon)
        factor = exact(inverse, member * gain[None])
        offset = bias[None] - exact(mean * inverse, member * gain[None])
        if scale is not None:
            factor, offset = factor * (1 + scale), offset * (1 + scale)
        if shift is not None:
            offset += shift
        answer = values * factor[:, None, None] + offset[:, None, None]
        return answer.astype(self.dtype)
