"""Inception-v3 as the Fréchet Inception distance was defined with it, and how to score by it.

Network: Szegedy et al. 2015; distance: Heusel et al. 2017. The weights are not part of jaxgen:
`jaxgen.evaluation.inception_weights` says which file they are and reads it. Then

    network, params = FrechetFeatures(), read_weights("pt_inception-2015-12-05-6726825d.pth")
    with jax.set_mesh(make_mesh(MeshShape())):  # all devices; without it, one
        _, real = read(network, params, pictures, batch_size=64)  # jaxgen.evaluation.features
        _, drawn = read(network, params, samples, batch_size=64)
    print(frechet_distance(Moments.of(real), Moments.of(drawn)))  # jaxgen.evaluation.frechet

is the FID, and `functools.partial(read, network, params, batch_size=64)` is what `reference` and
`image_scores` of `jaxgen.evaluation.image_scores` take for all the other scores in these features.

What papers report takes 50,000 samples against the training set or 50,000 of it, pictures at their
own size (the network resizes them), and changes with the number of samples: say it beside the
figure. Fewer than 2,049 have no distance at all, their covariance being singular. Without these
very weights and this very resizing it isn't the FID: torchmetrics' own default resizes otherwise
(its `antialias=False` is this one), and so does pytorch-fid.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.evaluation.inception_blocks import (
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
    Unit,
    average_pool,
    halved,
    maximum_pool,
)
from jaxgen.nn.linear import Linear

Picture = Float[Array, "batch height width channels"]

SIDE = 299  # pixels, of the picture that the network looks at
CLASSES = 1008  # of which 1,000 are ImageNet's


class Features(NamedTuple):
    """What the network says of each picture, from early to late; deeper features mean more.

    The first four are means over the picture, after the layer with so many channels; the distance
    is measured in `features_2048`. `unbiased_logits` lack the last layer's bias: the Inception
    score as it was first published (Salimans et al. 2016) rests on those.
    """

    features_64: Float[Array, "batch 64"]
    features_192: Float[Array, "batch 192"]
    features_768: Float[Array, "batch 768"]
    features_2048: Float[Array, "batch 2048"]
    unbiased_logits: Float[Array, "batch 1008"]
    logits: Float[Array, "batch 1008"]


class InceptionV3(nn.Module):
    """The network of 2015-12-05 for inference: resizing and scaling are part of it.

    Its convolutions and products run in full float32 on every device: with the shorter products
    that accelerators take by default, distances would be another ruler's.
    """

    @nn.compact
    def __call__(self, pictures: Picture) -> Features:
        """Pictures in [-1, 1], one or three channels, of any size -> features and logits.

        They are rounded to the 256 levels that a saved picture has (`levels`), one channel is
        shown three times, then they are resized. Raises `UserError` for other channels.
        """
        if pictures.shape[-1] not in (1, 3):
            raise UserError(
                f"Inception-v3 reads pictures with 1 or 3 channels, and these have "
                f"{pictures.shape[-1]}: give it grey or RGB ones."
            )
        with jax.default_matmul_precision("highest"):
            return self._features(jnp.repeat(pictures, 3 // pictures.shape[-1], axis=-1))

    def _features(self, pictures: Picture) -> Features:
        x = (resized(levels(pictures), SIDE) - 128) / 128
        x = Unit(32, 3, 2, padded=False, name="Conv2d_1a_3x3")(x)
        x = Unit(32, 3, padded=False, name="Conv2d_2a_3x3")(x)
        x = halved(Unit(64, 3, name="Conv2d_2b_3x3")(x))  # 73×73
        features_64 = x.mean((1, 2))
        x = Unit(80, 1, name="Conv2d_3b_1x1")(x)
        x = halved(Unit(192, 3, padded=False, name="Conv2d_4a_3x3")(x))  # 35×35
        features_192 = x.mean((1, 2))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = InceptionA(pooled, name=name)(x)
        x = InceptionB(name="Mixed_6a")(x)  # 17×17
        for letter, narrow in zip("bcde", (128, 160, 160, 192), strict=True):
            x = InceptionC(narrow, name=f"Mixed_6{letter}")(x)
        features_768 = x.mean((1, 2))
        x = InceptionD(name="Mixed_7a")(x)  # 8×8
        x = InceptionE(average_pool, name="Mixed_7b")(x)
        x = InceptionE(maximum_pool, name="Mixed_7c")(x)
        features_2048 = x.mean((1, 2))
        last = Linear((CLASSES,), (None, "vocab"), name="logits")
        kernel, bias = last.weights((2048,))
        assert bias is not None
        unbiased = features_2048 @ kernel
        return Features(
            features_64, features_192, features_768, features_2048, unbiased, unbiased + bias[None]
        )


class FrechetFeatures(nn.Module):
    """`InceptionV3` with its own parameters, asked only for what the scores look at."""

    def setup(self) -> None:
        """One network, without a name of its own in the parameters."""
        self.network = InceptionV3()
        nn.share_scope(self, self.network)

    def __call__(
        self, pictures: Picture
    ) -> tuple[Float[Array, "batch 1008"], Float[Array, "batch 2048"]]:
        """Pictures in [-1, 1] -> logits and the features that the distance is measured in."""
        said = self.network(pictures)
        return said.logits, said.features_2048


def levels(pictures: Picture) -> Picture:
    """[-1, 1] to the nearest of the levels 0, 1, ..., 255, halves up, clipped; still float32.

    What is saved as a picture of 8 bits is what is scored: `jaxgen.artifacts.Images` rounds alike,
    and what was read from 8 bits comes back as it was.
    """
    return jnp.clip(jnp.floor(pictures * 127.5 + 128), 0, 255)


def resized(pictures: Picture, side: int) -> Float[Array, "batch {side} {side} channels"]:
    """Bilinear resizing as TensorFlow 1 did it, corners not aligned, to (side, side).

    Pixel i of the answer lies at i·size/side of the picture: at the corners of pixels, not at their
    centres as everywhere since, and nothing is smoothed where the picture shrinks. Distances move
    visibly with either (Parmar, Zhang & Zhu 2022), so it is part of the definition.
    """
    for axis in (2, 1):
        size = pictures.shape[axis]
        # On the host in float32, as the original: a compiler may round these products otherwise.
        place = np.arange(side, dtype=np.float32) * np.float32(size / side)
        before = place.astype(np.int32)
        after = np.minimum(before + 1, size - 1)
        share = np.expand_dims(
            place - before.astype(np.float32), (0, 2, 3) if axis == 1 else (0, 1, 3)
        )
        near, far = jnp.take(pictures, before, axis), jnp.take(pictures, after, axis)
        pictures = near + (far - near) * share
    return pictures
