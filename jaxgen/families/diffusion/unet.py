"""The U-Net of DDPM, with ADM's scale-shift residual blocks: a denoiser for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.attention import attention
from jaxgen.nn.convolution import GroupNorm, convolution, doubled
from jaxgen.nn.linear import Linear
from jaxgen.nn.time_embedding import sinusoidal_embedding

Picture = Float[Array, "batch height width channels"]
Embedding = Float[Array, "batch embed"]


class ResidualBlock(nn.Module):
    """Two normalized convolutions on a shortcut; the embedding scales and shifts in between.

    The block of ADM (Dhariwal & Nichol 2021, section 3.1, adaptive group normalization). It starts
    as its shortcut, since its last convolution starts at zero.
    """

    channels: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self, picture: Picture, embedding: Embedding
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Any number of channels -> `channels`."""
        incoming = picture.shape[-1]
        hidden = nn.silu(GroupNorm(dtype=self.dtype, name="norm_in")(picture))
        hidden = convolution(self.channels, dtype=self.dtype, name="convolution_in")(hidden)
        modulation = Linear(
            (2 * self.channels,), ("embed", "channels_out"), dtype=self.dtype, name="modulation"
        )
        scale, shift = jnp.split(modulation(nn.silu(embedding)), 2, axis=-1)
        hidden = nn.silu(GroupNorm(dtype=self.dtype, name="norm_out")(hidden, scale, shift))
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


class AttentionBlock(nn.Module):
    """Self-attention between all places of a picture, on a shortcut (Ho et al. 2020)."""

    head_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, picture: Picture) -> Picture:
        """(batch, height, width, channels) -> the same; `UserError` unless head_dim divides."""
        batch, height, width, channels = picture.shape
        if channels % self.head_dim:
            raise UserError(
                f"Attention over {channels} channels can't have heads of {self.head_dim}: choose a "
                "lowest width that head_dim divides."
            )
        places = GroupNorm(dtype=self.dtype, name="norm")(picture)
        places = places.reshape(batch, height * width, channels)
        heads = (channels // self.head_dim, self.head_dim)
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


class UNet(nn.Module):
    """Residual blocks at falling, then rising resolution, joined by skips (Ho et al. 2020).

    image_channels: of the picture and of the prediction.
    widths: channels of each level; each level halves the resolution of the one before.
    blocks: residual blocks a level on the way down; one more on the way up.
    attention: levels whose blocks attend as well; between the lowest blocks it always happens.
    head_dim: of the attention.
    classes: of the label; 0 ignores it.
    dropout: inside the residual blocks; active where a "dropout" key is passed.
    time_scale: multiplies time before its embedding, which wants a range of about 1000.
    dtype: of the computation; parameters stay float32, and so does the prediction.
    """

    image_channels: int
    widths: Sequence[int]
    blocks: int
    attention: Sequence[int] = ()
    head_dim: int = 32
    classes: int = 0
    dropout: float = 0.0
    time_scale: float = 1000.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        picture: Picture,
        time: Float[Array, "batch"],
        label: Int[Array, "batch"] | None = None,
    ) -> Picture:
        """x_t, t and a class -> a prediction of the shape of x_t.

        A label outside the classes, as guidance's `NO_CLASS`, tells nothing. Raises `UserError`
        where height and width can't be halved once a level.
        """
        height, width = picture.shape[1:3]
        halvings = 2 ** (len(self.widths) - 1)
        if height % halvings or width % halvings:
            raise UserError(
                f"A U-Net of {len(self.widths)} levels can't halve pictures of {height}×{width} "
                f"often enough: height and width have to be multiples of {halvings}."
            )
        embedding = self._embedding(time, label)
        picture = convolution(self.widths[0], dtype=self.dtype, name="first")(picture)
        skips = [picture]
        lowest = len(self.widths) - 1
        for level, width in enumerate(self.widths):
            for index in range(self.blocks):
                picture = self._block(width, f"down_{level}_{index}")(picture, embedding)
                if level in self.attention:
                    picture = self._attention(f"down_attention_{level}_{index}")(picture)
                skips.append(picture)
            if level < lowest:
                picture = convolution(
                    width, stride=2, dtype=self.dtype, name=f"downsample_{level}"
                )(picture)
                skips.append(picture)
        width = self.widths[lowest]
        picture = self._block(width, "middle_0")(picture, embedding)
        picture = self._attention("middle_attention")(picture)
        picture = self._block(width, "middle_1")(picture, embedding)
        for level, width in reversed(list(enumerate(self.widths))):
            for index in range(self.blocks + 1):
                picture = jnp.concatenate([picture, skips.pop()], axis=-1)
                picture = self._block(width, f"up_{level}_{index}")(picture, embedding)
                if level in self.attention:
                    picture = self._attention(f"up_attention_{level}_{index}")(picture)
            if level > 0:
                picture = convolution(width, dtype=self.dtype, name=f"upsample_{level}")(
                    doubled(picture)
                )
        picture = nn.silu(GroupNorm(dtype=self.dtype, name="norm_last")(picture))
        last = convolution(self.image_channels, zero=True, dtype=jnp.float32, name="last")
        return last(picture.astype(jnp.float32))

    def _block(self, channels: int, name: str) -> ResidualBlock:
        return ResidualBlock(channels, self.dropout, self.dtype, name=name)

    def _attention(self, name: str) -> AttentionBlock:
        return AttentionBlock(self.head_dim, self.dtype, name=name)

    def _embedding(
        self, time: Float[Array, "batch"], label: Int[Array, "batch"] | None
    ) -> Embedding:
        width = 4 * self.widths[0]
        hidden = sinusoidal_embedding(self.time_scale * time, self.widths[0])
        hidden = Linear((width,), (None, "embed"), dtype=self.dtype, name="time_0")(hidden)
        hidden = Linear((width,), ("embed", "mlp"), dtype=self.dtype, name="time_1")(
            nn.silu(hidden)
        )
        if self.classes:
            told = jax.nn.one_hot(label, self.classes, dtype=self.dtype)
            hidden += Linear(
                (width,),
                (None, "mlp"),
                bias=False,
                # As an embedding table: rows of unit variance, not of 1 / classes.
                initializer=nn.initializers.normal(1.0),
                dtype=self.dtype,
                name="class",
            )(told)
        return hidden
