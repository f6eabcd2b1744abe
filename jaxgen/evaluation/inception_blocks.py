"""The blocks of Inception-v3 as the Fréchet Inception distance uses them (Szegedy et al. 2015).

The names of layers are those of the published weights (`Mixed_5b/branch1x1`, ...), so that a file
of them maps onto the parameters by its own words. The graph of 2015 that the distance was defined
with differs from the paper and from later ports in two places: its average pools leave the padding
out of the mean, and its last block pools by the maximum. Both are kept: they are the ruler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.convolution import convolution

Picture = Float[Array, "batch height width channels"]
Wider = Float[Array, "batch height width wider"]
Lower = Float[Array, "batch lower narrower wider"]


class InferenceNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy 2015) that has finished: by statistics it is given.

    Mean and variance are parameters like scale and bias; nothing here ever updates them.
    """

    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, picture: Picture) -> Picture:
        """(x - mean) / √(variance + ε) · scale + bias, each channel by itself."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones

        def channelwise(name: str, initializer: Any) -> Any:
            named = nn.with_logical_partitioning(initializer, ("channels_out",))
            return self.param(name, named, (picture.shape[-1],))

        scale, variance = channelwise("scale", ones), channelwise("variance", ones)
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        offset = channelwise("bias", zeros) - channelwise("mean", zeros) * factor
        return picture * factor[None, None, None] + offset[None, None, None]


class Unit(nn.Module):
    """Convolution without a bias, normalization, rectifier: what every block is made of.

    features: channels of the answer.
    kernel: side, or (height, width).
    padded: by half the kernel; otherwise not at all.
    """

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padded: bool = True

    @nn.compact
    def __call__(self, picture: Picture) -> Lower:
        """Maps a picture; smaller by the stride, and by the kernel where it isn't padded."""
        layer = convolution(
            self.features,
            self.kernel,
            stride=self.stride,
            padding=None if self.padded else 0,
            bias=False,
            name="convolution",
        )
        return nn.relu(InferenceNorm(name="norm")(layer(picture)))


class InceptionA(nn.Module):
    """Figure 5 of the paper, at 35×35.

    pooled: channels of the branch that begins with a pool.
    """

    pooled: int

    @nn.compact
    def __call__(self, picture: Picture) -> Wider:
        """(…, channels) -> (…, 224 + pooled)."""
        one = Unit(64, 1, name="branch1x1")(picture)
        five = Unit(48, 1, name="branch5x5_1")(picture)
        five = Unit(64, 5, name="branch5x5_2")(five)
        double = Unit(64, 1, name="branch3x3dbl_1")(picture)
        double = Unit(96, 3, name="branch3x3dbl_2")(double)
        double = Unit(96, 3, name="branch3x3dbl_3")(double)
        pool = Unit(self.pooled, 1, name="branch_pool")(average_pool(picture))
        return jnp.concatenate([one, five, double, pool], -1)


class InceptionB(nn.Module):
    """Figure 10: from 35×35 to 17×17."""

    @nn.compact
    def __call__(self, picture: Picture) -> Lower:
        """(…, channels) -> (…, 480 + channels), half as high and as wide."""
        three = Unit(384, 3, 2, padded=False, name="branch3x3")(picture)
        double = Unit(64, 1, name="branch3x3dbl_1")(picture)
        double = Unit(96, 3, name="branch3x3dbl_2")(double)
        double = Unit(96, 3, 2, padded=False, name="branch3x3dbl_3")(double)
        return jnp.concatenate([three, double, halved(picture)], -1)


class InceptionC(nn.Module):
    """Figure 6, at 17×17: 7×7 convolutions taken apart into 1×7 and 7×1.

    narrow: channels between the two.
    """

    narrow: int

    @nn.compact
    def __call__(self, picture: Picture) -> Wider:
        """(…, channels) -> (…, 768)."""
        one = Unit(192, 1, name="branch1x1")(picture)
        seven = Unit(self.narrow, 1, name="branch7x7_1")(picture)
        seven = Unit(self.narrow, (1, 7), name="branch7x7_2")(seven)
        seven = Unit(192, (7, 1), name="branch7x7_3")(seven)
        double = Unit(self.narrow, 1, name="branch7x7dbl_1")(picture)
        double = Unit(self.narrow, (7, 1), name="branch7x7dbl_2")(double)
        double = Unit(self.narrow, (1, 7), name="branch7x7dbl_3")(double)
        double = Unit(self.narrow, (7, 1), name="branch7x7dbl_4")(double)
        double = Unit(192, (1, 7), name="branch7x7dbl_5")(double)
        pool = Unit(192, 1, name="branch_pool")(average_pool(picture))
        return jnp.concatenate([one, seven, double, pool], -1)


class InceptionD(nn.Module):
    """From 17×17 to 8×8."""

    @nn.compact
    def __call__(self, picture: Picture) -> Lower:
        """(…, channels) -> (…, 512 + channels), half as high and as wide."""
        three = Unit(192, 1, name="branch3x3_1")(picture)
        three = Unit(320, 3, 2, padded=False, name="branch3x3_2")(three)
        seven = Unit(192, 1, name="branch7x7x3_1")(picture)
        seven = Unit(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = Unit(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = Unit(192, 3, 2, padded=False, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, halved(picture)], -1)


class InceptionE(nn.Module):
    """Figure 7, at 8×8: 3×3 convolutions fanned out into 1×3 beside 3×1.

    pool: of the last branch, keeping height and width: `average_pool`, in the last block
        `maximum_pool`.
    """

    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, picture: Picture) -> Wider:
        """(…, channels) -> (…, 2048)."""
        one = Unit(320, 1, name="branch1x1")(picture)
        three = Unit(384, 1, name="branch3x3_1")(picture)
        across = Unit(384, (1, 3), name="branch3x3_2a")(three)
        down = Unit(384, (3, 1), name="branch3x3_2b")(three)
        double = Unit(448, 1, name="branch3x3dbl_1")(picture)
        double = Unit(384, 3, name="branch3x3dbl_2")(double)
        double_across = Unit(384, (1, 3), name="branch3x3dbl_3a")(double)
        double_down = Unit(384, (3, 1), name="branch3x3dbl_3b")(double)
        pool = Unit(192, 1, name="branch_pool")(self.pool(picture))
        return jnp.concatenate([one, across, down, double_across, double_down, pool], -1)


def average_pool(picture: Picture) -> Picture:
    """The mean of each pixel's 3×3 neighbours, of those alone that lie inside the picture."""
    edge = ((1, 1), (1, 1))
    return nn.avg_pool(picture, (3, 3), (1, 1), edge, count_include_pad=False)


def maximum_pool(picture: Picture) -> Picture:
    """The maximum of each pixel's 3×3 neighbours inside the picture."""
    return nn.max_pool(picture, (3, 3), (1, 1), ((1, 1), (1, 1)))


def halved(picture: Picture) -> Float[Array, "batch lower narrower channels"]:
    """The maximum of every second 3×3 square that lies inside the picture."""
    return nn.max_pool(picture, (3, 3), (2, 2))
