"""What one asks of a generator of pictures: draws, all of one class or of each in turn.

Latent i depends on the key, its label and i alone: asking for more doesn't change the first ones.
Pictures are float32 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.artifacts import Images
from jaxgen.errors import UserError, at_least_one
from jaxgen.experiment import Items, Key, Model, Sampler
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.parts import Label, Latent, Things

_COLUMNS = 10  # of the grid; without a label, each of its rows shows one class


@dataclass(frozen=True)
class DrawRequest:
    """Pictures from latents of the prior."""

    count: int = 100  # how many pictures
    label: int = -1  # class to draw; -1: each row of ten shows the next class
    truncation: float | None = None  # smaller is likelier and less varied; None: the whole prior
    seed: int = 0  # another seed draws other pictures


@dataclass(frozen=True)
class LatentSpace:
    """Where a generator's pictures come from, as two functions.

    latents: (model, key, label, count, truncation) -> latents; `truncation` is None or a scalar of
        0 or more, and 0 leaves one latent (a label). Latent i depends on key, label i and i alone.
    make: (model, latents, label) -> pictures.
    """

    latents: Callable[[Model, Key, Label | None, int, Any], Latent]
    make: Callable[[Model, Latent, Label | None], Things]


def prior_space(game: Game) -> LatentSpace:
    """Latents from N(0, 1); truncated, from that part of it that lies within ±truncation.

    That is the truncation trick of BigGAN (Brock et al. 2019, section 3.1).
    """

    def latents(model: Model, key: Key, label: Label | None, count: int, truncation: Any) -> Latent:
        def one(key: Key) -> Float[Array, "*latent"]:
            latent = game.latents(key, 1)[0]
            if truncation is None:
                return latent
            return jax.random.truncated_normal(key, -truncation, truncation, latent.shape)

        return jax.vmap(one)(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))

    return LatentSpace(latents, game.generate)


def classes_in_turn(count: int, classes: int) -> Int[Array, "count"] | None:
    """0, 1, 2, ... and again from 0; None where there are no classes."""
    return jnp.arange(count, dtype=jnp.int32) % classes if classes else None


def draw(
    game: Game, model: Model, key: Key, count: int, label: Label | None = None
) -> Float[Array, "count *shape"]:
    """So many pictures from the prior, of given labels or else of `classes_in_turn`."""
    if label is None:
        label = classes_in_turn(count, game.classes)
    latent = prior_space(game).latents(model, key, label, count, None)
    return game.generate(model, latent, label)


def draw_sampler(space: LatentSpace, classes: int = 0, enlarge: int = 2) -> Sampler:
    """Pictures from the prior.

    classes: of the label; 0: unconditional. `prepare` raises `UserError` for any other label.
    enlarge: how many times a saved picture is enlarged.
    """

    def prepare(request: DrawRequest) -> tuple[int, dict[str, Any]]:
        at_least_one(count=request.count)
        rows = np.arange(request.count) // _COLUMNS
        return request.count, {
            "label": _labels(request.label, rows, classes),
            "truncation": _truncation(request.truncation),
        }

    def sample(model: Model, key: Key, count: int, arrays: dict[str, Any]) -> dict[str, Array]:
        label = arrays["label"]
        latent = space.latents(model, key, label, count, arrays["truncation"])
        return {"image": space.make(model, latent, label)}

    return Sampler(DrawRequest, prepare, sample, _rendered(enlarge))


def game_samplers(
    game: Game, pictures: Items, enlarge: int = 2, space: LatentSpace | None = None
) -> dict[str, Sampler]:
    """All of the above by name.

    pictures: data with an "image" leaf, and a "label" for a conditional game.
    space: where latents come from, if not from N(0, 1): that of a mapping network, for example.
    """
    space = space or prior_space(game)
    return {"draw": draw_sampler(space, game.classes, enlarge)}


def _labels(label: int, numbers: np.ndarray, classes: int) -> np.ndarray | None:
    """The one asked for, or with -1 as many in turn as `numbers` count."""
    if not classes and label != -1:
        raise UserError("This model knows no classes: leave label at -1.")
    if not -1 <= label < max(classes, 1):
        raise UserError(
            f"There is no class {label}: label is one of 0 to {classes - 1}, or -1 for all of them "
            "in turn."
        )
    if not classes:
        return None
    asked = numbers % classes if label == -1 else np.full(len(numbers), label)
    return asked.astype(np.int32)


def _truncation(truncation: float | None) -> np.float32 | None:
    if truncation is None:
        return None
    if not truncation >= 0:
        raise UserError(f"truncation has to be 0 or more, or none at all, not {truncation}.")
    return np.float32(truncation)


def _rendered(enlarge: int) -> Callable[[Any], Images]:
    def render(drawn: dict[str, Any]) -> Images:
        columns = int(drawn.get("columns", _COLUMNS))
        frames = drawn.get("frames")
        return Images.of_signed(drawn["image"], columns=columns, frames=frames, enlarge=enlarge)

    return render
