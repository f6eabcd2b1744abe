"""The residual networks of SNGAN, for 32×32 pictures, and for 48×48 and 64×64 by their widths.

Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", appendix B.4,
tables 3 to 5, as torch-mimicry reimplements them (Lee & Town 2020, arXiv 2005.02494):

                generator                                    discriminator
    32×32       256 on 4×4, then 256, 256, 256               128, 128 | 128, 128
    48×48       512 on 6×6, then 256, 128, 64                64, 128, 256, 512 | 1024
    64×64       1024 on 4×4, then 512, 256, 128, 64          64, 128, 256, 512, 1024 |

Each number is a residual block with so many channels. The generator's double the resolution; the
discriminator's before the bar halve it.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.families.gan.heads import LogitHead
from jaxgen.families.gan.parts import Judgement, Label
from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.nn.convolution import KERNEL, Picture, convolved
from jaxgen.nn.linear import Linear
from jaxgen.nn.resampling import averaged
from jaxgen.nn.spectral_norm import SpectralConvolution

# Xavier's uniform initialization: on residual branches times √2, for the rectifiers.
PLAIN = nn.initializers.xavier_uniform()
RECTIFIED = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


class SNGANGenerator(nn.Module):
    """A linear map to a small picture, doubling residual blocks, a last convolution, tanh.

    A block is normalize, ReLU, double, 3×3, normalize, ReLU, 3×3, on a shortcut of double and 1×1;
    no spectral normalization here.

    widths: channels of the small picture, then after each doubling.
    start: pixels wide and high of the small picture.
    channels: of the picture.
    classes: of the labels that scale and shift in the blocks' normalizations; 0: none.
    dtype: of the convolutions; parameters, statistics and pictures are float32.
    """

    widths: tuple[int, ...] = (256, 256, 256, 256)
    start: int = 4
    channels: int = 3
    classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "batch latent"],
        label: Label | None = None,
        *,
        train: bool = False,
    ) -> Picture:
        """Latents -> pictures in (-1, 1), `start` · 2^(widths - 1) pixels wide and high."""
        first, *others = self.widths
        wide = Linear(
            (self.start**2 * first,),
            ("embed", "channels_out"),
            initializer=PLAIN,
            dtype=self.dtype,
            name="linear",
        )(latent)
        picture = wide.reshape(-1, self.start, self.start, first)
        for index, width in enumerate(others):
            block = _GeneratorBlock(width, self.classes, self.dtype, name=f"block_{index}")
            picture = block(picture, label, train)
        last = BatchNorm(dtype=self.dtype, name="norm")(picture, train=train)
        made = _convolution(self.channels, 3, PLAIN, self.dtype, "convolution")(nn.relu(last))
        return jnp.tanh(made.astype(jnp.float32))


class SNGANDiscriminator(nn.Module):
    """Residual blocks, ReLU, the sum over all places, and a head; every kernel divided by its σ.

    A block is ReLU, 3×3, ReLU, 3×3, and where it halves a 2×2 mean, on a shortcut of 1×1 and mean.
    The first block, which meets the picture itself, has no ReLU before, and its shortcut takes the
    mean first.

    head: what follows the sum; for labels a `ProjectionHead` or a `ClassifierHead`.
    widths: channels of each block.
    halvings: so many of the first blocks halve the resolution.
    rectified_shortcuts: the first ReLU of a block is on its shortcut too. So it is in torch-mimicry
        and in its scores, because there the ReLU writes over what the shortcut reads; it isn't in
        the paper.
    dtype: of the convolutions; parameters and logits are float32.
    """

    head: nn.Module = LogitHead()
    widths: tuple[int, ...] = (128, 128, 128, 128)
    halvings: int = 2
    rectified_shortcuts: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture, label: Label | None = None, *, train: bool = False
    ) -> Judgement:
        """Pictures -> a logit each; `UserError` where 2^`halvings` doesn't divide their sides."""
        hidden = picture
        for index, width in enumerate(self.widths):
            hidden = _DiscriminatorBlock(
                width,
                first=index == 0,
                halves=index < self.halvings,
                rectified_shortcut=self.rectified_shortcuts,
                dtype=self.dtype,
                name=f"block_{index}",
            )(hidden, train)
        features = nn.relu(hidden).astype(jnp.float32).sum((1, 2))
        said: Any = self.head(features, label, train=train)
        return said


class _GeneratorBlock(nn.Module):
    features: int
    classes: int
    dtype: Any

    @nn.compact
    def __call__(
        self, picture: Picture, label: Label | None, train: bool
    ) -> Float[Array, "batch 2*height 2*width {self.features}"]:
        hidden = nn.relu(self._norm("norm_in", picture, label, train))
        hidden = _convolution(self.features, 3, RECTIFIED, self.dtype, "convolution_in")(
            doubled(hidden)
        )
        hidden = nn.relu(self._norm("norm_out", hidden, label, train))
        hidden = _convolution(self.features, 3, RECTIFIED, self.dtype, "convolution_out")(hidden)
        # Doubling is a mean of neighbours, so the pointwise convolution may as well come first.
        shortcut = _convolution(self.features, 1, PLAIN, self.dtype, "shortcut")(picture)
        return hidden + doubled(shortcut)

    def _norm(self, name: str, picture: Picture, label: Label | None, train: bool) -> Picture:
        norm = BatchNorm(self.classes, dtype=self.dtype, name=name)
        return norm(picture, label if self.classes else None, train=train)


class _DiscriminatorBlock(nn.Module):
    features: int
    first: bool
    halves: bool
    rectified_shortcut: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, picture: Picture, train: bool
    ) -> Float[Array, "batch rows columns {self.features}"]:
        arriving = picture.shape[-1]
        inner = self.features if self.first else arriving
        rectified = picture if self.first else nn.relu(picture)
        hidden = self._convolution("convolution_in", inner, 3)(rectified, train=train)
        hidden = nn.relu(hidden)
        hidden = self._convolution("convolution_out", self.features, 3)(hidden, train=train)
        shortcut = rectified if self.rectified_shortcut else picture
        if self.first or self.halves or arriving != self.features:
            # A mean and a pointwise convolution may change places: it is on fewer pixels this way.
            if self.halves:
                shortcut = averaged(shortcut)
            shortcut = self._convolution("shortcut", self.features, 1)(shortcut, train=train)
        return (averaged(hidden) if self.halves else hidden) + shortcut

    def _convolution(self, name: str, features: int, kernel: int) -> SpectralConvolution:
        initializer = RECTIFIED if kernel > 1 else PLAIN
        return SpectralConvolution(features, kernel, initializer, self.dtype, name=name)


def doubled(picture: Picture) -> Float[Array, "batch 2*height 2*width channels"]:
    """Bilinear, corners not aligned: torch-mimicry's choice; Miyato et al. repeat each pixel."""
    batch, height, width, channels = picture.shape
    return jax.image.resize(picture, (batch, 2 * height, 2 * width, channels), "bilinear")


def _convolution(features: int, kernel: int, initializer: Any, dtype: Any, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (kernel, kernel),
        padding=kernel // 2,
        dtype=dtype,
        conv_general_dilated=convolved,
        kernel_init=nn.with_logical_partitioning(initializer, KERNEL),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("channels_out",)),
        name=name,
    )
