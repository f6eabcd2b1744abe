"""What one asks of a generator of pictures: draws, ways, grids of classes, projections.

Picture, way, row or projection i depends on the key, the request and i alone: asking for more
doesn't change the first ones. Pictures are float32 in [-1, 1].
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
from jaxgen.experiment import Items, Key, Model, Sampler, taken
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.latent_space import LatentSpace, prior_space
from jaxgen.families.gan.parts import Label
from jaxgen.families.gan.projection import Distance, project, squared_error

_COLUMNS = 10  # of the grid; without a label, each of its rows shows one class


@dataclass(frozen=True)
class DrawRequest:
    """Pictures from latents of the prior."""

    count: int = 100  # how many pictures
    label: int = -1  # class to draw; -1: each row of ten shows the next class
    truncation: float | None = None  # smaller is likelier and less varied; None: the whole prior
    seed: int = 0  # another seed draws other pictures


@dataclass(frozen=True)
class InterpolateRequest:
    """Ways from one random latent to another, a row each."""

    count: int = 10  # how many ways
    steps: int = 10  # pictures on a way, both ends included
    label: int = -1  # class to draw; -1: each way shows the next class
    truncation: float | None = None  # smaller is likelier and less varied; None: the whole prior
    animate: bool = False  # save all ways in motion as well, as a GIF
    seed: int = 0  # another seed draws other latents


@dataclass(frozen=True)
class ClassesRequest:
    """A column for each class and a row for each latent, the same one in the whole row."""

    count: int = 10  # how many latents
    truncation: float | None = None  # smaller is likelier and less varied; None: the whole prior
    seed: int = 0  # another seed draws other latents


@dataclass(frozen=True)
class ProjectRequest:
    """Pictures of the data, each followed by the nearest that the generator can make."""

    count: int = 10  # how many pairs
    first: int = 0  # which picture of the data to begin with
    steps: int = 300  # down the slope, by Adam
    starts: int = 4  # random latents to begin at; the best end counts
    rate: float = 0.1  # Adam's highest, in units of the latents
    seed: int = 0  # another seed begins elsewhere


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


def interpolation_sampler(space: LatentSpace, classes: int = 0, enlarge: int = 2) -> Sampler:
    """Ways between random latents, in one class each; along the sphere for N(0, 1) latents.

    White 2016, "Sampling Generative Networks", section 2.1. With "animate" there are also "frames"
    (steps, count, height, width, channels): the pictures of all ways at one place after the other.
    """

    def prepare(request: InterpolateRequest) -> tuple[Any, dict[str, Any]]:
        at_least_one(count=request.count, steps=request.steps)
        return (request.count, request.steps, request.animate), {
            "label": _labels(request.label, np.arange(request.count), classes),
            "truncation": _truncation(request.truncation),
        }

    def sample(model: Model, key: Key, static: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        count, steps, animate = static
        label = arrays["label"]
        start, end = (
            space.latents(model, one, label, count, arrays["truncation"])
            for one in jax.random.split(key)
        )
        ways = jax.vmap(space.way, (0, 0, None))(start, end, jnp.linspace(0.0, 1.0, steps))
        labels = None if label is None else jnp.repeat(label, steps)
        made = space.make(model, ways.reshape(-1, *start.shape[1:]), labels)
        drawn: dict[str, Any] = {"image": made, "columns": steps}
        if animate:
            drawn["frames"] = jnp.swapaxes(made.reshape(count, steps, *made.shape[1:]), 0, 1)
        return drawn

    return Sampler(InterpolateRequest, prepare, sample, _rendered(enlarge))


def class_sampler(space: LatentSpace, classes: int, enlarge: int = 2) -> Sampler:
    """What each latent makes of each class: classes side by side, latents below each other."""

    def prepare(request: ClassesRequest) -> tuple[int, dict[str, Any]]:
        at_least_one(count=request.count)
        return request.count, {"truncation": _truncation(request.truncation)}

    def sample(model: Model, key: Key, count: int, arrays: dict[str, Any]) -> dict[str, Any]:
        def of(label: Int[Array, ""]) -> Float[Array, "count *latent"]:
            labels = jnp.broadcast_to(label, (count,))
            return space.latents(model, key, labels, count, arrays["truncation"])

        every = jnp.arange(classes, dtype=jnp.int32)
        latent = jax.vmap(of, out_axes=1)(every)
        made = space.make(model, latent.reshape(-1, *latent.shape[2:]), jnp.tile(every, count))
        return {"image": made, "columns": classes}

    return Sampler(ClassesRequest, prepare, sample, _rendered(enlarge))


def projection_sampler(
    space: LatentSpace,
    pictures: Items,
    classes: int = 0,
    enlarge: int = 2,
    distance: Distance = squared_error,
) -> Sampler:
    """Originals and their projections side by side; a conditional game gets the original's label.

    Besides "image" there are the "latent" found for each original and its "distance".
    """

    def prepare(request: ProjectRequest) -> tuple[Any, dict[str, Any]]:
        at_least_one(count=request.count, steps=request.steps, starts=request.starts)
        if not request.rate > 0:
            raise UserError(f"rate has to be above 0, not {request.rate}.")
        asked = taken(pictures, request.first, request.count)
        if classes and "label" not in asked:
            raise UserError(
                f"A game of {classes} classes projects pictures with a label; this data has only "
                f"{', '.join(asked)}."
            )
        return (request.steps, request.starts), {
            "image": asked["image"],
            "label": asked["label"] if classes else None,
            "rate": np.float32(request.rate),
        }

    def sample(model: Model, key: Key, static: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        steps, starts = static
        originals, label = jnp.asarray(arrays["image"]), arrays["label"]
        begun = [
            space.latents(model, jax.random.fold_in(key, start), label, len(originals), None)
            for start in range(starts)
        ]
        latent, apart = project(
            lambda latent: space.make(
                model, latent, None if label is None else jnp.tile(label, len(latent) // len(label))
            ),
            originals,
            jnp.stack(begun),
            steps=steps,
            rate=arrays["rate"],
            distance=distance,
        )
        pairs = jnp.stack([originals, space.make(model, latent, label)], axis=1)
        return {
            "image": pairs.reshape(-1, *originals.shape[1:]),
            "latent": latent,
            "distance": apart,
        }

    return Sampler(ProjectRequest, prepare, sample, _rendered(enlarge))


def game_samplers(
    game: Game,
    pictures: Items,
    enlarge: int = 2,
    space: LatentSpace | None = None,
    distance: Distance = squared_error,
) -> dict[str, Sampler]:
    """All of the above by name; "classes" for a conditional game only.

    pictures: data with an "image" leaf, and a "label" for a conditional game, to be projected.
    space: where latents come from, if not from N(0, 1): a mapping network's styles, for example.
    distance: what a projection makes small.
    """
    space = space or prior_space(game)
    samplers = {
        "draw": draw_sampler(space, game.classes, enlarge),
        "interpolate": interpolation_sampler(space, game.classes, enlarge),
        "project": projection_sampler(space, pictures, game.classes, enlarge, distance),
    }
    if game.classes:
        samplers["classes"] = class_sampler(space, game.classes, enlarge)
    return samplers


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
