"""Deep convolutional generator and discriminator: Radford et al. 2016 (arXiv 1511.06434)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.families.gan.parts import Label, Latent
from jaxgen.nn.batch_norm import BatchNorm
from jaxgen.nn.convolution import GroupNorm, Picture
from jaxgen.nn.linear import Linear
from jaxgen.nn.strided_convolution import DoublingConvolution, HalvingConvolution

# A layer that normalizes, given its name and whether the network trains; made inside the network.
Normalization = Callable[[str, bool], Callable[[Picture], Picture]]

# Section 3 of the paper: all weights begin with a standard deviation of 0.02.
SMALL = nn.initializers.normal(0.02)


def by_batch(momentum: float = 0.9) -> Normalization:
    """Batch normalization; `momentum` of its running statistics."""

    def made(name: str, train: bool) -> Callable[[Picture], Picture]:
        norm = BatchNorm(momentum=momentum, spread=0.02, name=name)
        return lambda picture: norm(picture, train=train)

    return made


def by_picture(name: str, train: bool) -> Callable[[Picture], Picture]:
    """Group normalization within each picture, as a gradient penalty on single rows needs it."""
    return GroupNorm(name=name)


def unnormalized(name: str, train: bool) -> Callable[[Picture], Picture]:
    """No normalization (WGAN-GP: Gulrajani et al. 2017, section 4)."""
    return lambda picture: picture


class DCGANGenerator(nn.Module):
    """A latent projected and reshaped, doubled by 4×4 transposed convolutions; tanh at the end.

    shape: (height, width, channels) of the pictures.
    widths: channels at each resolution below theirs, the lowest first: (128, 64) makes 28×28
        from 7×7×128 and 14×14×64. `UserError` where height or width isn't that often even.
    norm: before each ReLU.
    classes: where there are labels, a one-hot class goes beside the latent (CGAN: Mirza & Osindero
        2014, section 3).
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...] = (128, 64)
    norm: Normalization = by_batch()
    classes: int = 0

    @nn.compact
    def __call__(
        self, latent: Latent, label: Label | None = None, *, train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """(batch, latent) -> pictures in [-1, 1]."""
        height, width = started(self.shape, len(self.widths))
        if label is not None:
            latent = jnp.concatenate([latent, jax.nn.one_hot(label, self.classes)], axis=-1)
        bias = self.norm is unnormalized  # elsewhere the normalization has one
        names = ("embed", None, None, "channels_out")
        hidden = Linear(
            (height, width, self.widths[0]), names, bias=bias, initializer=SMALL, name="projection"
        )(latent)
        hidden = nn.relu(self.norm("norm_0", train)(hidden))
        for layer, channels in enumerate(self.widths[1:], 1):
            hidden = DoublingConvolution(channels, bias, SMALL, name=f"convolution_{layer}")(hidden)
            hidden = nn.relu(self.norm(f"norm_{layer}", train)(hidden))
        last = DoublingConvolution(self.shape[-1], initializer=SMALL, name="picture")
        return jnp.tanh(last(hidden))


class DCGANDiscriminator(nn.Module):
    """4×4 convolutions in steps of 2 with leaky rectifiers, then one logit of all that is left.

    widths: channels after each halving, (64, 128) for 28×28. `UserError` where a side isn't that
        often even.
    norm: before each rectifier but the first. A gradient penalty needs one that looks at single
        pictures: `by_picture` or `unnormalized`.
    initializer: of the kernels. Without normalization the paper's small ones let little through,
        and He et al. 2015's (`nn.initializers.he_normal()`, as WGAN-GP has them) learn sooner.
    classes: where there are labels, a plane for each class goes beside the picture's channels, 1
        for the picture's own and 0 for all others.
    """

    widths: tuple[int, ...] = (64, 128)
    norm: Normalization = by_batch()
    initializer: Any = SMALL
    classes: int = 0

    @nn.compact
    def __call__(
        self, picture: Picture, label: Label | None = None, *, train: bool = False
    ) -> Float[Array, "batch"]:
        """Pictures -> a logit each, high for real ones."""
        started(picture.shape[1:], len(self.widths))
        if label is not None:
            planes: Any = jax.nn.one_hot(label, self.classes)[:, None, None]
            planes = jnp.broadcast_to(planes, (*picture.shape[:3], self.classes))
            picture = jnp.concatenate([picture, planes], axis=-1)
        hidden = picture
        for layer, channels in enumerate(self.widths):
            plain = layer == 0 or self.norm is unnormalized
            hidden = HalvingConvolution(
                channels, plain, self.initializer, name=f"convolution_{layer}"
            )(hidden)
            if layer:
                hidden = self.norm(f"norm_{layer}", train)(hidden)
            hidden = nn.leaky_relu(hidden, 0.2)
        names = (None, None, "channels_in", None)
        return Linear((1,), names, inputs=3, initializer=self.initializer, name="logit")(hidden)[
            :, 0
        ]


def started(shape: tuple[int, ...], doublings: int) -> tuple[int, int]:
    """The lowest resolution below a picture's; `UserError` where there is none."""
    height, width = shape[:2]
    if not doublings or height % 2**doublings or width % 2**doublings:
        raise UserError(
            f"{height}×{width} pixels can't be reached by {doublings} doublings: give one width "
            f"for each time that both sides can be halved, or take pictures of another size."
        )
    return height >> doublings, width >> doublings
