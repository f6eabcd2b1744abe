"""StyleGAN2: a mapping network, a synthesis network of modulated convolutions, a residual judge.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv 1912.04958): the
skip generator and the residual discriminator of figure 7. Its game is NON_SATURATING with R1 every
16 steps and `PathLength` every 4.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.families.gan.parts import Label
from jaxgen.families.gan.stylegan2_blocks import (
    HalvingBlock,
    MappingNetwork,
    StyledConvolution,
    ToColours,
    activated,
)
from jaxgen.nn.convolution import Picture
from jaxgen.nn.equalized import EqualizedConvolution, EqualizedLinear
from jaxgen.nn.filtered_resampling import filtered_double
from jaxgen.nn.minibatch_deviation import with_minibatch_deviation

Styles = Float[Array, "batch layers style"]


class SynthesisNetwork(nn.Module):
    """Styles to pictures: one learned constant, doubled in size step by step.

    Each resolution adds its own colours to the picture so far, doubled.

    widths: channels at each resolution, the smallest first.
    start: height and width of the smallest.
    colours: channels of a picture.
    dtype: of the convolutions; parameters and pictures stay float32.
    """

    widths: tuple[int, ...]
    start: int = 4
    colours: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, styles: Styles) -> Picture:
        """Two styles a resolution: layer 2i makes the features of size i, 2i + 1 its colours.

        As in the paper's figure 2, the style of a resolution's colours is also that of the first
        convolution of the next one.
        """
        initializer = nn.with_logical_partitioning(
            nn.initializers.normal(1.0), (None, None, "channels_out")
        )
        shape = (self.start, self.start, self.widths[0])
        constant: Any = self.param("constant", initializer, shape)
        hidden = jnp.broadcast_to(constant[None], (styles.shape[0], *constant.shape))
        picture = None
        for level, width in enumerate(self.widths):
            if level:
                double = StyledConvolution(width, True, self.dtype, name=f"double_{level}")
                hidden = double(hidden, styles[:, 2 * level - 1])
            convolution = StyledConvolution(width, dtype=self.dtype, name=f"convolution_{level}")
            hidden = convolution(hidden, styles[:, 2 * level])
            colours = ToColours(self.colours, name=f"colours_{level}")
            seen = colours(hidden, styles[:, 2 * level + 1])
            picture = seen if picture is None else filtered_double(picture) + seen
        assert picture is not None
        return picture


class StyleGAN2Generator(nn.Module):
    """Latents to w to pictures; pictures are not bounded.

    The running mean of w is the collection "styles", followed while training.

    widths: channels at each resolution, the smallest first; each doubles the one before.
    start: height and width of the smallest: 4 for 32 or 64 pixels, 7 for 28.
    colours: channels of a picture.
    style: numbers of w.
    classes: of the label; 0: none.
    mapping_layers: of the mapping network.
    mixing: the share of pictures made of two w while training, the second one from a random layer
        on (style mixing: Karras et al. 2019, arXiv 1812.04948, section 3.1).
    decay: of the running mean of w a step; 0.995 in the paper's own code, 0.998 in that of
        Karras et al. 2020 (arXiv 2006.06676).
    dtype: of the convolutions; parameters and pictures stay float32.
    """

    widths: tuple[int, ...] = (512, 512, 512, 512)
    start: int = 4
    colours: int = 3
    style: int = 512
    classes: int = 0
    mapping_layers: int = 8
    mixing: float = 0.0
    decay: float = 0.998
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """The two networks, and the mean of w."""
        self.mapping = MappingNetwork(self.style, self.mapping_layers, classes=self.classes)
        self.synthesis = SynthesisNetwork(self.widths, self.start, self.colours, self.dtype)
        self.mean: Any = self.variable("styles", "mean", jnp.zeros, (self.style,))

    def __call__(
        self,
        latent: Float[Array, "batch latent"],
        label: Label | None = None,
        *,
        train: bool = False,
    ) -> Picture:
        """Pictures of latents from N(0, 1)."""
        return self.synthesize(self.map(latent, label, train=train))

    def map(
        self,
        latent: Float[Array, "batch latent"],
        label: Label | None = None,
        *,
        train: bool = False,
        truncation: float | Float[Array, ""] | None = None,
    ) -> Styles:
        """The w of each layer: all the same, but where styles are mixed in training.

        truncation: ψ; w moves to mean + ψ (w - mean), so 0 gives the mean for all; None leaves w
            (Karras et al. 2019, appendix B).
        """
        layers = 2 * len(self.widths)
        style = self.mapping(latent, label)
        if train and self.is_mutable_collection("styles"):
            now = jax.lax.stop_gradient(style).mean(0)
            self.mean.value = self.decay * self.mean.value + (1 - self.decay) * now
        if truncation is not None:
            mean = self.mean.value[None]
            style = mean + truncation * (style - mean)
        styles = jnp.repeat(style[:, None], layers, 1)
        if not (train and self.mixing and self.has_rng("noise")):
            return styles
        draw, which, where = jax.random.split(self.make_rng("noise"), 3)
        rows = latent.shape[0]
        other = self.mapping(jax.random.normal(draw, latent.shape), label)
        mixed = jax.random.bernoulli(which, self.mixing, (rows,))
        first = jnp.where(mixed, jax.random.randint(where, (rows,), 1, layers), layers)
        kept = jnp.arange(layers)[None] < first[:, None]
        return jnp.where(kept[..., None], styles, other[:, None])

    def synthesize(self, styles: Float[Array, "batch *layers style"]) -> Picture:
        """Pictures of one w each, or of one for each layer, as `map` gives them."""
        if styles.ndim == 2:
            styles = jnp.repeat(styles[:, None], 2 * len(self.widths), 1)
        return self.synthesis(styles)


class StyleGAN2Discriminator(nn.Module):
    """Residual blocks down to the smallest resolution, which is judged whole.

    With classes the logit is a product with a vector of the label's, which a mapping network makes
    (projection: Miyato & Koyama 2018, arXiv 1802.05637; the mapping: Karras et al. 2020, arXiv
    2006.06676).

    widths: channels at each resolution, the largest first; each halves the one before.
    group: pictures among which the minibatch deviation is taken (`with_minibatch_deviation`).
    classes: of the label; 0: none.
    mapping_layers: of the label's mapping network.
    dtype: of the convolutions before the last resolution; parameters and logits stay float32.
    """

    widths: tuple[int, ...] = (512, 512, 512, 512)
    group: int = 4
    classes: int = 0
    mapping_layers: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture, label: Label | None = None, *, train: bool = False
    ) -> Float[Array, "batch"]:
        """A logit for each picture, high for real ones.

        Raises `UserError` for sides that can't be halved so often, and for labels that are missing.
        """
        hidden = EqualizedConvolution(self.widths[0], 1, dtype=self.dtype, name="colours")(picture)
        hidden = activated(hidden)
        for level, width in enumerate(self.widths[1:]):
            hidden = HalvingBlock(width, self.dtype, name=f"block_{level}")(hidden)
        last = self.widths[-1]
        hidden = with_minibatch_deviation(hidden.astype(jnp.float32), self.group)
        hidden = activated(EqualizedConvolution(last, name="convolution")(hidden))
        hidden = hidden.reshape(hidden.shape[0], -1)
        hidden = activated(EqualizedLinear(last, name="hidden")(hidden))
        if not self.classes:
            return EqualizedLinear(1, names=("embed", "vocab"), name="logit")(hidden)[:, 0]
        logits = EqualizedLinear(last, name="projected")(hidden)
        mapping = MappingNetwork(last, self.mapping_layers, classes=self.classes, name="label")
        direction = mapping(None, label)
        return jnp.sum(logits * direction, -1) / math.sqrt(last)
