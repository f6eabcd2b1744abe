"""The U-Net of DDPM, with ADM's scale-shift residual blocks: a denoiser for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.convolution import GroupNorm, convolution
from jaxgen.nn.linear import Linear
from jaxgen.nn.picture_blocks import AttentionBlock, ResidualBlock
from jaxgen.nn.resampling import enlarged
from jaxgen.nn.time_embedding import sinusoidal_embedding

Picture = Float[Array, "batch height width channels"]
Embedding = Float[Array, "batch embed"]


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
                    enlarged(picture)
                )
        picture = nn.silu(GroupNorm(dtype=self.dtype, name="norm_last")(picture))
        last = convolution(self.image_channels, zero=True, dtype=jnp.float32, name="last")
        return last(picture.astype(jnp.float32))

    def _block(self, channels: int, name: str) -> ResidualBlock:
        return ResidualBlock(channels, self.dropout, dtype=self.dtype, name=name)

    def _attention(self, name: str) -> AttentionBlock:
        return AttentionBlock(self.head_dim, dtype=self.dtype, name=name)

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
