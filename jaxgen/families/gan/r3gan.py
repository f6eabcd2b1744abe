"""R3GAN's two networks: plain residual ones of today, with no normalization and no tricks.

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern GAN Baseline" (arXiv 2501.05441),
section 4, config E. Theirs are the blocks and their start, the resampling, the 4×4 bases at the
latent's and the logit's end, and the conditioning. Settled here: initial weights are drawn from a
truncated normal distribution of the same spread as their normal one, and `patch` may spare CPUs the
highest resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.convolution import Picture, convolution
from jaxgen.nn.filtered_resampling import filtered_double, filtered_half
from jaxgen.nn.linear import Linear
from jaxgen.nn.resampling import folded, unfolded

# Keeps the spread through a leaky rectifier of slope 0.2 (He et al. 2015, equation 14).
_GAIN = math.sqrt(2 / (1 + 0.2**2))
_SPREAD = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class R3ganBlock(nn.Module):
    """An inverted bottleneck on a shortcut: 1×1, grouped 3×3, 1×1 convolutions, leaky rectifiers.

    Section 4.2 of the paper: ResNeXt's block (Xie et al. 2017), turned inside out. It starts as its
    shortcut, and without normalization the first two kernels start smaller the more blocks there
    are, by depth^(-1/4) (Fixup: Zhang et al. 2019: depth^(-1/(2m-2)), m layers in a branch).

    depth: residual blocks in the whole network.
    expansion: how many times as many channels there are inside.
    group_width: channels of a group of the 3×3 convolution; None makes it one group.
    dtype: of the computation; parameters stay float32.
    """

    depth: int
    expansion: int = 2
    group_width: int | None = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Picture) -> Picture:
        """A picture of the same shape; raises `UserError` where groups don't divide the width."""
        channels = picture.shape[-1]
        inside = self.expansion * channels
        width = self.group_width or inside
        if inside % width:
            raise UserError(
                f"{inside} channels within a block can't be parted in groups of {width}: take "
                "another width or another group width."
            )
        gain = _GAIN * self.depth**-0.25
        hidden = convolution(inside, 1, gain=gain, dtype=self.dtype, name="widen")(picture)
        hidden = convolution(
            inside, 3, groups=inside // width, gain=gain, dtype=self.dtype, name="mix"
        )(nn.leaky_relu(hidden, 0.2))
        return picture + convolution(
            channels, 1, bias=False, zero=True, dtype=self.dtype, name="narrow"
        )(nn.leaky_relu(hidden, 0.2))


class R3ganGenerator(nn.Module):
    """Latents to pictures of 4 · 2^(widths - 1) · patch pixels a side.

    A learned picture of 4×4 for each channel, weighed by a linear map of the latent; at each
    resolution blocks; between two of them bilinear enlargement, behind a 1×1 convolution where the
    width changes; a 1×1 convolution to the channels. Nothing bounds the pictures. A label is mapped
    to as many numbers as the latent has and put beside them.

    widths: channels at each resolution, from 4×4 on.
    blocks: at each resolution.
    channels: of the picture.
    classes: of the label; 0: there is none.
    expansion, group_width: of the blocks.
    patch: the last convolution makes squares of this many pixels a side out of each place; the
        paper's is 1.
    dtype: of the computation; parameters and pictures stay float32.
    """

    widths: Sequence[int] = (768, 768, 768, 768)
    blocks: int = 2
    channels: int = 3
    classes: int = 0
    expansion: int = 2
    group_width: int | None = 16
    patch: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "batch latent"],
        label: Int[Array, "batch"] | None = None,
        *,
        train: bool = False,
    ) -> Picture:
        """The same whether training or not."""
        if self.classes:
            told = _told(label, self.classes, latent.shape[-1], 1.0)
            latent = jnp.concatenate([latent, told], -1)
        width = self.widths[0]
        basis: Any = self.param(
            "basis",
            nn.with_logical_partitioning(nn.initializers.normal(1.0), (None, None, "channels_out")),
            (4, 4, width),
        )
        weights = Linear(
            (width,), ("embed", "channels_out"), bias=False, initializer=_SPREAD, name="latent"
        )(latent)
        picture = (basis[None] * weights[:, None, None]).astype(self.dtype)
        depth = self.blocks * len(self.widths)
        for level, width in enumerate(self.widths):
            if level:
                if width != picture.shape[-1]:
                    picture = _mixed(width, self.dtype, f"change_{level}")(picture)
                picture = filtered_double(picture)
            for index in range(self.blocks):
                picture = R3ganBlock(
                    depth, self.expansion, self.group_width, self.dtype, name=f"{level}_{index}"
                )(picture)
        last = _mixed(self.channels * self.patch**2, jnp.float32, "picture")
        return unfolded(last(picture.astype(jnp.float32)), self.patch)


class R3ganDiscriminator(nn.Module):
    """The generator turned around: pictures to logits.

    A 1×1 convolution from the channels; at each resolution blocks; between two of them the picture
    is smoothed and halved, before a 1×1 convolution where the width changes; at 4×4 each channel is
    summed up with 16 weights of its own, and a linear map makes the logit. With labels, that map
    makes several numbers and the label as many more, and the logit is their inner product (after
    the projection of Miyato & Koyama 2018).

    widths: channels at each resolution, 4×4 first, as the generator's.
    blocks, expansion, group_width, patch, dtype: as the generator's.
    classes: of the label; 0: there is none.
    projection: numbers of a label, where there is one; the paper has as many as the last width.
    """

    widths: Sequence[int] = (768, 768, 768, 768)
    blocks: int = 2
    classes: int = 0
    projection: int = 768
    expansion: int = 2
    group_width: int | None = 16
    patch: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        picture: Picture,
        label: Int[Array, "batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch"]:
        """The same whether training or not; raises `UserError` for pictures of another size."""
        side = 4 * 2 ** (len(self.widths) - 1) * self.patch
        if picture.shape[1:3] != (side, side):
            raise UserError(
                f"{len(self.widths)} widths are for pictures of {side}×{side}, and these are "
                f"{picture.shape[1]}×{picture.shape[2]}: each width more doubles the side, from "
                f"{4 * self.patch} on; pad or resize the pictures where none fits."
            )
        depth = self.blocks * len(self.widths)
        places = folded(picture.astype(self.dtype), self.patch)
        hidden = _mixed(self.widths[-1], self.dtype, "channels")(places)
        for level in reversed(range(len(self.widths))):
            for index in range(self.blocks):
                hidden = R3ganBlock(
                    depth, self.expansion, self.group_width, self.dtype, name=f"{level}_{index}"
                )(hidden)
            if level:
                hidden = filtered_half(hidden)
                if self.widths[level - 1] != hidden.shape[-1]:
                    hidden = _mixed(self.widths[level - 1], self.dtype, f"change_{level}")(hidden)
        basis: Any = self.param(
            "basis",
            # One over the root of the 16 weights that are summed up.
            nn.with_logical_partitioning(nn.initializers.normal(0.25), (None, None, None)),
            (4, 4, self.widths[0]),
        )
        seen = jnp.sum(hidden.astype(jnp.float32) * basis[None], (1, 2))
        made = Linear(
            (self.projection if self.classes else 1,),
            ("channels_in", None),
            bias=False,
            initializer=_SPREAD,
            name="logit",
        )(seen)
        if not self.classes:
            return made[:, 0]
        told = _told(label, self.classes, self.projection, 1 / math.sqrt(self.projection))
        return jnp.sum(made * told, -1)


def _mixed(features: int, dtype: Any, name: str) -> nn.Conv:
    return convolution(features, 1, bias=False, dtype=dtype, name=name)


def _told(
    label: Int[Array, "batch"] | None, classes: int, size: int, gain: float
) -> Float[Array, "batch {size}"]:
    """What a label says, in so many numbers; call it inside a Linen module."""
    if label is None:
        raise UserError(
            f"This network of {classes} classes needs a label for each row: give them, or take "
            "classes=0."
        )
    spread = nn.initializers.variance_scaling(gain**2, "fan_in", "normal")
    numbers = Linear((size,), (None, "embed"), bias=False, initializer=spread, name="label")
    return numbers(jax.nn.one_hot(label, classes))
