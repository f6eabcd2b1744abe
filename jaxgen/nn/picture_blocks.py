"""The blocks of convolutional networks for pictures: each adds its branch to a shortcut.

Shared by the U-Net of diffusion and the autoencoders of latent diffusion. All of them start as
their shortcuts, since each branch's last layer starts at zero.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.attention import attention
from jaxgen.nn.convolution import GroupNorm, Picture, convolution
from jaxgen.nn.linear import Linear


class ResidualBlock(nn.Module):
    """Two normalized convolutions on a shortcut; an embedding may scale and shift in between.

    With an embedding, the block of ADM (Dhariwal & Nichol 2021, section 3.1, adaptive group
    normalization); without, that of the autoencoders of Esser et al. 2021 and Rombach et al. 2022.

    channels: of the answer.
    dropout: before the last convolution; active where a "dropout" key is passed.
    groups, epsilon: of both `GroupNorm`s.
    dtype: of the computation; parameters stay float32.
    """

    channels: int
    dropout: float = 0.0
    groups: int | None = None
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture, embedding: Float[Array, "batch embed"] | None = None
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Any number of channels -> `channels`."""
        incoming = picture.shape[-1]
        hidden = nn.silu(self._norm("norm_in")(picture))
        hidden = convolution(self.channels, dtype=self.dtype, name="convolution_in")(hidden)
        scale = shift = None
        if embedding is not None:
            modulation = Linear(
                (2 * self.channels,), ("embed", "channels_out"), dtype=self.dtype, name="modulation"
            )
            scale, shift = jnp.split(modulation(nn.silu(embedding)), 2, axis=-1)
        hidden = nn.silu(self._norm("norm_out")(hidden, scale, shift))
        # Without a "dropout" key there is none: sampling and evaluation just don't pass it.
        hidden = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(hidden)
        hidden = convolution(self.channels, zero=True, dtype=self.dtype, name="convolution_out")(
            hidden
        )
        if incoming != self.channels:
            picture = Linear(
                (self.channels,), ("channels_in", "channels_out"), dtype=self.dtype, name="shortcut"
            )(picture)
        return picture + hidden

    def _norm(self, name: str) -> GroupNorm:
        return GroupNorm(self.groups, self.epsilon, self.dtype, name=name)


class AttentionBlock(nn.Module):
    """Self-attention between all places of a picture, on a shortcut (Ho et al. 2020).

    head_dim: channels of a head; None makes one head of all channels.
    groups, epsilon: of the `GroupNorm`.
    dtype: of the computation; parameters stay float32.
    """

    head_dim: int | None = None
    groups: int | None = None
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Picture:
        """(batch, height, width, channels) -> the same; `UserError` unless head_dim divides."""
        batch, height, width, channels = picture.shape
        head_dim = channels if self.head_dim is None else self.head_dim
        if channels % head_dim:
            raise UserError(
                f"Attention over {channels} channels can't have heads of {head_dim}: choose a "
                "lowest width that head_dim divides."
            )
        norm = GroupNorm(self.groups, self.epsilon, self.dtype, name="norm")
        places = norm(picture).reshape(batch, height * width, channels)
        heads = (channels // head_dim, head_dim)
        query, key, value = (
            Linear(heads, ("channels_in", "heads", "head_dim"), dtype=self.dtype, name=name)(places)
            for name in ("query", "key", "value")
        )
        mixed = attention(query, key, value)
        mixed = Linear(
            (channels,),
            ("heads", "head_dim", "channels_out"),
            inputs=2,
            initializer=nn.initializers.zeros,
            dtype=self.dtype,
            name="output",
        )(mixed)
        return picture + mixed.reshape(picture.shape)
