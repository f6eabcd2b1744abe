"""Stable Diffusion's encoder and decoder: pictures to a small grid of vectors and back.

The layout is that of Rombach et al. 2022, after VQGAN's (Esser et al. 2021, table 7) without its
attention outside the middle. Residual branches start at zero here, which theirs don't: the layout
is the same, the first steps are calmer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.convolution import GroupNorm, Picture, convolution
from jaxgen.nn.picture_blocks import AttentionBlock, ResidualBlock
from jaxgen.nn.resampling import enlarged

_EPSILON = 1e-6  # of all normalizations
# A stride of two over the picture with one row and column more below and at the right: each output
# lies on an even pixel, as Stable Diffusion's weights expect.
_BELOW_AND_RIGHT = ((0, 1), (0, 1))


class Encoder(nn.Module):
    """Residual blocks at falling resolution, with attention in the middle at the lowest.

    widths: channels of each level; each level halves the resolution of the one before.
    blocks: residual blocks a level.
    outputs: channels of the grid.
    groups: of every normalization; None chooses by width, as `GroupNorm` does.
    dtype: of the computation; parameters stay float32, and so does the answer.
    """

    widths: Sequence[int]
    blocks: int
    outputs: int
    groups: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Float[Array, "batch grid_height grid_width outputs"]:
        """Pictures -> grids, smaller by 2 to the number of levels less one.

        Raises `UserError` where height and width can't be halved so often.
        """
        height, width = picture.shape[1:3]
        lowest = len(self.widths) - 1
        if height % 2**lowest or width % 2**lowest:
            raise UserError(
                f"An encoder of {lowest + 1} levels can't halve pictures of {height}×{width} often "
                f"enough: height and width have to be multiples of {2**lowest}."
            )
        hidden = convolution(self.widths[0], dtype=self.dtype, name="convolution_in")(picture)
        for level, channels in enumerate(self.widths):
            for index in range(self.blocks):
                hidden = _residual(self, channels, f"down_{level}_{index}")(hidden)
            if level < lowest:
                hidden = convolution(
                    channels,
                    stride=2,
                    padding=_BELOW_AND_RIGHT,
                    dtype=self.dtype,
                    name=f"downsample_{level}",
                )(hidden)
        hidden = _middle(self, hidden)
        return _last(self, hidden, self.outputs)


class Decoder(nn.Module):
    """The encoder turned around, with one more residual block a level and nearest upsampling.

    widths: channels of each level, the first at the highest resolution, as the encoder's.
    blocks: residual blocks a level, as the encoder's: the decoder has one more.
    outputs: channels of the picture.
    groups, dtype: as the encoder's.
    """

    widths: Sequence[int]
    blocks: int
    outputs: int
    groups: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latent: Float[Array, "batch grid_height grid_width dimensions"]
    ) -> Float[Array, "batch height width outputs"]:
        """Grids -> pictures; nothing bounds them to [-1, 1]."""
        hidden = convolution(self.widths[-1], dtype=self.dtype, name="convolution_in")(latent)
        hidden = _middle(self, hidden)
        for level, channels in reversed(list(enumerate(self.widths))):
            for index in range(self.blocks + 1):
                hidden = _residual(self, channels, f"up_{level}_{index}")(hidden)
            if level > 0:
                hidden = convolution(channels, dtype=self.dtype, name=f"upsample_{level}")(
                    enlarged(hidden)
                )
        return _last(self, hidden, self.outputs)


def _middle(network: Encoder | Decoder, hidden: Picture) -> Picture:
    channels = hidden.shape[-1]
    attend = AttentionBlock(None, network.groups, _EPSILON, network.dtype, name="middle_attention")
    hidden = _residual(network, channels, "middle_0")(hidden)
    return _residual(network, channels, "middle_1")(attend(hidden))


def _last(
    network: Encoder | Decoder, hidden: Picture, outputs: int
) -> Float[Array, "batch height width {outputs}"]:
    norm = GroupNorm(network.groups, _EPSILON, network.dtype, name="norm_out")
    hidden = nn.silu(norm(hidden)).astype(jnp.float32)
    return convolution(outputs, name="convolution_out")(hidden)


def _residual(network: Encoder | Decoder, channels: int, name: str) -> ResidualBlock:
    return ResidualBlock(
        channels, groups=network.groups, epsilon=_EPSILON, dtype=network.dtype, name=name
    )
