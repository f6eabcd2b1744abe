"""Where a generator's pictures come from: latents, what is made of them, ways between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.experiment import Key, Model
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.parts import Label, Latent, Things
from jaxgen.nn.spherical import spherical


@dataclass(frozen=True)
class LatentSpace:
    """The space in which pictures are drawn, walked between and looked for.

    latents: (model, key, label, count, truncation) -> latents; `truncation` is None for the whole
        prior, or a scalar of 0 or more, which leaves the less of it the smaller it is. Latent i
        depends on the key, label i and i alone.
    make: (model, latents, label) -> things.
    way: (start, end, places in [0, 1]) -> the latents of one way at those places.
    """

    latents: Callable[[Model, Key, Label | None, int, Any], Latent]
    make: Callable[[Model, Latent, Label | None], Things]
    way: Callable[[Array, Array, Array], Array] = spherical


def prior_space(game: Game) -> LatentSpace:
    """The game's own latents, from N(0, 1); truncated, from that part of it within ±truncation.

    This is the truncation trick of BigGAN (Brock et al. 2019, section 3.1). Ways follow the sphere.
    """

    def latents(model: Model, key: Key, label: Label | None, count: int, truncation: Any) -> Latent:
        def one(key: Key) -> Float[Array, "*latent"]:
            latent = game.latents(key, 1)[0]
            if truncation is None:
                return latent
            return jax.random.truncated_normal(key, -truncation, truncation, latent.shape)

        return jax.vmap(one)(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))

    return LatentSpace(latents, game.generate)


def straight(
    start: Float[Array, "*latent"], end: Float[Array, "*latent"], places: Float[Array, "steps"]
) -> Float[Array, "steps *latent"]:
    """From `start` (place 0) to `end` (place 1) at an even pace: for spaces without a centre."""
    return start[None] + jnp.tensordot(places, end - start, axes=0)
