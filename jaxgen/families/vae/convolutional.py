"""The VQ-VAE's convolutional encoder and decoder, for any autoencoder of pictures.

After van den Oord et al. 2017, section 4.1: convolutions with a stride of 2 down to a small grid
of latents, residual blocks there, and the mirror image back. No normalization, so that a latent
depends on nothing but the pixels around it. Where the paper transposes convolutions, these spread
channels over pixels (Shi et al. 2016), which has the same form and more weights a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.convolution import Picture, convolution
from jaxgen.nn.resampling import unfolded


class ResidualStack(nn.Module):
    """Blocks of ReLU, 3×3 convolution, ReLU, 1×1 convolution on a shortcut; a ReLU at the end.

    blocks: how many.
    hidden: channels inside a block.
    dtype: of the computation.
    """

    blocks: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Picture:
        """(batch, height, width, channels) -> the same."""
        for index in range(self.blocks):
            branch = convolution(self.hidden, dtype=self.dtype, name=f"convolution_{index}")(
                nn.relu(picture)
            )
            picture += convolution(
                picture.shape[-1], kernel=1, dtype=self.dtype, name=f"output_{index}"
            )(nn.relu(branch))
        return nn.relu(picture)


class ConvolutionalEncoder(nn.Module):
    """Pictures to a grid of latents, each side halved once for each of `widths`.

    outputs: numbers at each place of the grid: the latent's dimensions, or for a Gaussian twice
        as many, mean and log deviation.
    widths: channels after each halving.
    blocks: residual blocks on the grid.
    hidden: channels inside a block.
    dtype: of the computation; parameters and outputs are float32.
    """

    outputs: int
    widths: Sequence[int] = (32, 64)
    blocks: int = 2
    hidden: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture
    ) -> Float[Array, "batch grid_height grid_width {self.outputs}"]:
        """Raises `UserError` where height or width can't be halved so often."""
        height, width = picture.shape[1:3]
        halvings = 2 ** len(self.widths)
        if height % halvings or width % halvings:
            raise UserError(
                f"An encoder with {len(self.widths)} widths can't halve pictures of "
                f"{height}×{width} as often: height and width have to be multiples of {halvings}."
            )
        for level, channels in enumerate(self.widths):
            if level:
                picture = nn.relu(picture)
            picture = convolution(channels, stride=2, dtype=self.dtype, name=f"halve_{level}")(
                picture
            )
        grid = ResidualStack(self.blocks, self.hidden, self.dtype, name="residual")(picture)
        # In float32: what follows compares distances.
        return convolution(self.outputs, kernel=1, name="latent")(grid.astype(jnp.float32))


class ConvolutionalDecoder(nn.Module):
    """A grid of latents to pictures, the sides doubled once for each of `widths`.

    channels: of the picture.
    widths: channels at each resolution as the encoder counts them, so read from the last to the
        first.
    blocks, hidden: the residual blocks on the grid.
    dtype: of the computation; parameters and pictures are float32.
    """

    channels: int
    widths: Sequence[int] = (32, 64)
    blocks: int = 2
    hidden: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latent: Float[Array, "batch grid_height grid_width dimensions"]
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Pixels without bounds: means of a Gaussian, or logits."""
        grid = convolution(self.widths[-1], dtype=self.dtype, name="grid")(latent)
        picture = ResidualStack(self.blocks, self.hidden, self.dtype, name="residual")(grid)
        for level in range(len(self.widths) - 1, 0, -1):
            wider = convolution(
                4 * self.widths[level - 1], dtype=self.dtype, name=f"double_{level}"
            )
            picture = nn.relu(unfolded(wider(picture)))
        last = convolution(4 * self.channels, name="double_0")
        return unfolded(last(picture.astype(jnp.float32)))


class Autoencoder(nn.Module):
    """An encoder and a decoder as one network, with their parameters in one tree.

    encoder: pictures to latents, a module of its own.
    decoder: latents, whatever was done to them in between, to pictures.
    """

    encoder: nn.Module
    decoder: nn.Module

    def encode(self, picture: Picture) -> Float[Array, "batch grid_height grid_width dimensions"]:
        """Pictures to latents."""
        return self.encoder(picture)

    def decode(self, latent: Float[Array, "batch grid_height grid_width dimensions"]) -> Picture:
        """Latents to pictures."""
        return self.decoder(latent)
