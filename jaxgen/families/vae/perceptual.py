"""A distance between pictures as a network sees them, rather than pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.convolution import Picture

# Pictures -> feature maps of several layers, each (batch, height, width, channels).
FeatureMaps = Callable[[Picture], Sequence[Picture]]

# Added to squared lengths: where no feature is active there is no direction, and no gradient.
_EPSILON = 1e-8


def perceptual_distance(
    features: FeatureMaps,
    one: Picture,
    other: Picture,
    weights: Sequence[Float[Array, "channels"]] | None = None,
) -> Float[Array, "batch"]:
    """How differently a network sees two pictures; one number for each pair.

    At each place of each layer the features are scaled to length 1; squared differences are
    weighted, summed over channels, averaged over places and summed over layers (Zhang et al. 2018,
    "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1, LPIPS).

    features: any network; the gradient reaches the pictures through it.
    weights: for each layer one weight a channel (the paper's w, squared); None is 1 for all.
    """
    maps, other_maps = features(one), features(other)
    if weights is None:
        weights = [jnp.ones(each.shape[-1]) for each in maps]
    if len(weights) != len(maps):
        raise UserError(
            f"The perceptual distance has weights for {len(weights)} layers, and the network "
            f"gives {len(maps)}: pass one array of weights for each."
        )
    total = jnp.zeros(one.shape[0])
    for first, second, weight in zip(maps, other_maps, weights, strict=True):
        squared = jnp.square(_directions(first) - _directions(second))
        total += jnp.mean(jnp.einsum("bhwc,c->bhw", squared, weight), axis=(1, 2))
    return total


def _directions(features: Picture) -> Picture:
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(squares + _EPSILON)
