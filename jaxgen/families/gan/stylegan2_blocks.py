"""What StyleGAN2's two networks are built of.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958),
figure 2d and section 4.1; the mapping network is StyleGAN's (Karras et al. 2019, arXiv 1812.04948,
section 2).
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.families.gan.parts import Label
from jaxgen.nn.convolution import Picture
from jaxgen.nn.equalized import (
    EqualizedConvolution,
    EqualizedLinear,
    equalized_bias,
    equalized_kernel,
)
from jaxgen.nn.modulated_convolution import modulated_convolution

Style = Float[Array, "batch style"]


def activated(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A leaky rectifier, times √2 so that about as much comes out as went in."""
    return math.sqrt(2) * nn.leaky_relu(x, 0.2)


def unit_square(x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """Each row divided by the root of its mean square."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-8)


class MappingNetwork(nn.Module):
    """Latents or labels, or both, to vectors w of a space that is bent to the data.

    width: of w, and of all layers.
    layers: fully connected ones.
    rate: how much slower than others they learn.
    classes: of the label, which is embedded beside the latent as Karras et al. 2020, "Training
        Generative Adversarial Networks with Limited Data" (arXiv 2006.06676), do for CIFAR-10.
    """

    width: int = 512
    layers: int = 8
    rate: float = 0.01
    classes: int = 0

    @nn.compact
    def __call__(
        self, latent: Float[Array, "batch latent"] | None, label: Label | None = None
    ) -> Float[Array, "batch {self.width}"]:
        """Raises `UserError` where there are classes and no label."""
        given = [] if latent is None else [unit_square(latent)]
        if self.classes:
            if label is None:
                raise UserError(
                    f"A network of {self.classes} classes needs a label for each row: give the "
                    "game its classes."
                )
            shares = jax.nn.one_hot(label, self.classes)
            embedding = EqualizedLinear(self.width, names=("vocab", "embed"), name="label")(shares)
            given.append(unit_square(embedding))
        hidden = jnp.concatenate(given, -1)
        for layer in range(self.layers):
            hidden = EqualizedLinear(self.width, self.rate, name=f"layer_{layer}")(hidden)
            hidden = activated(hidden)
        return hidden


class StyledConvolution(nn.Module):
    """A modulated convolution, noise for each pixel, a bias and the activation.

    The noise is drawn anew where a "noise" key is passed; else it is one fixed picture of noise,
    kept in the collection "fixed_noise". It begins at strength 0.

    channels: of the answer.
    double: to twice the height and width.
    dtype: of the computation; parameters stay float32.
    """

    channels: int
    double: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture, style: Style
    ) -> Float[Array, "batch rows columns {self.channels}"]:
        """Any number of channels -> `channels`."""
        incoming = picture.shape[-1]
        # A scale of 1 to begin with, so that w only changes it.
        scale = EqualizedLinear(incoming, start=1.0, name="style")(style)
        shape = (3, 3, incoming, self.channels)
        kernel = equalized_kernel(self, shape, (None, None, "channels_in", "channels_out"))
        made = modulated_convolution(picture.astype(self.dtype), kernel, scale, double=self.double)
        rows, height, width, _ = made.shape
        fixed: Any = self.variable(
            "fixed_noise",
            "noise",
            lambda: jax.random.normal(self.make_rng("params"), (height, width, 1)),
        )
        if self.has_rng("noise"):
            noise = jax.random.normal(self.make_rng("noise"), (rows, height, width, 1))
        else:
            noise = fixed.value[None]
        strength: Any = self.param("noise_strength", nn.initializers.zeros, ())
        bias = equalized_bias(self, self.channels, "channels_out")
        added = strength * noise + bias[None, None, None]
        return activated(made + added.astype(self.dtype))


class ToColours(nn.Module):
    """A modulated 1×1 convolution to the picture's own channels; nothing is normalized here.

    colours: channels of a picture.
    """

    colours: int

    @nn.compact
    def __call__(
        self, picture: Picture, style: Style
    ) -> Float[Array, "batch height width {self.colours}"]:
        """Any number of channels -> `colours`, in float32."""
        incoming = picture.shape[-1]
        scale = EqualizedLinear(incoming, start=1.0, name="style")(style)
        shape = (1, 1, incoming, self.colours)
        kernel = equalized_kernel(self, shape, (None, None, "channels_in", "channels_out"))
        made = modulated_convolution(picture, kernel, scale, demodulate=False)
        bias = equalized_bias(self, self.colours, "channels_out")
        return made.astype(jnp.float32) + bias[None, None, None]


class HalvingBlock(nn.Module):
    """The discriminator's block: two convolutions beside a shortcut, to half the resolution.

    channels: of the answer.
    dtype: of the computation; parameters stay float32.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture
    ) -> Float[Array, "batch height//2 width//2 {self.channels}"]:
        """Raises `UserError` for an odd height or width."""
        shortcut = EqualizedConvolution(
            self.channels, 1, half=True, bias=False, dtype=self.dtype, name="shortcut"
        )(picture)
        first = EqualizedConvolution(picture.shape[-1], dtype=self.dtype, name="convolution_in")
        hidden = activated(first(picture))
        last = EqualizedConvolution(
            self.channels, half=True, dtype=self.dtype, name="convolution_out"
        )
        # Both have a variance of about 1, and so has their sum then.
        return (shortcut + activated(last(hidden))) / math.sqrt(2)
