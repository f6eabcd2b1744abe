"""A discriminator that judges patches: one logit for each piece of a picture."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.convolution import GroupNorm, Picture, convolution


class PatchDiscriminator(nn.Module):
    """PatchGAN: strided convolutions, whose last outputs each see but a patch of the picture.

    Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", section
    3.2.2 and appendix 6.1.2: 4×4 convolutions, leaky rectifiers, no normalization in the first
    layer. Theirs is batch normalization, here it is by groups of channels within a picture: batch
    statistics would make the verdict on one picture depend on the others beside it, tell real
    batches from made ones by their averages alone, and need running averages and, on a mesh, sums
    over devices. What a group sees of the whole picture is its mean and deviation, no more.

    width: channels of the first layer; they double with each layer, to at most 8 times as many.
    layers: halvings of the resolution. With 3 a logit's patch is 70×70 pixels; 2: 34×34; 1: 16×16.
    groups: of every normalization; None chooses by width, as `GroupNorm` does.
    dtype: of the computation; parameters and logits stay float32.
    """

    width: int = 64
    layers: int = 3
    groups: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Float[Array, "batch rows columns"]:
        """Pictures -> a logit for each patch, high for real ones."""
        hidden = convolution(
            self.width, 4, stride=2, padding=1, dtype=self.dtype, name="convolution_0"
        )(picture)
        hidden = nn.leaky_relu(hidden, 0.2)
        for layer in range(1, self.layers + 1):
            hidden = convolution(
                self.width * min(2**layer, 8),
                4,
                # After the halvings, one more layer at the same resolution.
                stride=2 if layer < self.layers else 1,
                padding=1,
                dtype=self.dtype,
                name=f"convolution_{layer}",
            )(hidden)
            norm = GroupNorm(self.groups, dtype=self.dtype, name=f"norm_{layer}")
            hidden = nn.leaky_relu(norm(hidden), 0.2)
        last = convolution(1, 4, padding=1, name="logits")
        return last(hidden.astype(jnp.float32))[..., 0]
