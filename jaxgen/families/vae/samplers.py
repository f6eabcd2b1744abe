"""What one asks of an autoencoder: draws, reconstructions, walks, traversals, attributes.

Each is a `Sampler` over plain functions of a `Model`: `draw` makes pictures from nothing, `encode`
gives a picture's latent, `decode` a latent's picture. Pictures are float32 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.artifacts import Images
from jaxgen.errors import UserError, at_least_one
from jaxgen.experiment import Items, Key, Model, Sampler, taken
from jaxgen.nn.spherical import spherical

Pictures = Float[Array, "count height width channels"]
Latents = Float[Array, "count *latent"]
Draw = Callable[[Model, Key, int, Any], Array]  # (model, key, count, temperature) -> pictures
Encode = Callable[[Model, Array], Array]  # (model, pictures) -> latents
Decode = Callable[[Model, Array], Array]  # (model, latents) -> pictures


@dataclass(frozen=True)
class DrawRequest:
    """Pictures from the prior."""

    count: int = 100  # how many pictures
    temperature: float = 1.0  # scales the prior's deviations: below 1 draws likelier pictures
    seed: int = 0  # another seed draws other pictures


@dataclass(frozen=True)
class ReconstructRequest:
    """Pictures of the data, each followed by what the model makes of it."""

    count: int = 50  # how many pairs
    first: int = 0  # which picture of the data to begin with
    seed: int = 0  # decides the latents that are drawn


@dataclass(frozen=True)
class WalkRequest:
    """Ways from one picture of the data to the next, along the sphere that latents lie on."""

    count: int = 10  # how many ways, a row each
    steps: int = 10  # pictures on a way, both ends included
    first: int = 0  # which picture of the data to begin with
    seed: int = 0  # not used: a walk is the same every time


@dataclass(frozen=True)
class TraversalRequest:
    """One picture of the data, its latent moved along one axis after the other."""

    picture: int = 0  # which picture of the data
    axes: int = 10  # how many axes of the latent, a row each, those first that vary most
    steps: int = 9  # pictures along an axis
    reach: float = 3.0  # how far to either side, in standard deviations of the axis over the data
    seed: int = 0  # not used: a traversal is the same every time


@dataclass(frozen=True)
class AttributeRequest:
    """Pictures of one class moved towards another by the difference of the classes' means."""

    source: int = 0  # class to begin with
    target: int = 1  # class to move towards
    count: int = 10  # how many pictures, a row each
    steps: int = 9  # pictures on the way
    reach: float = 1.5  # how far: 1 adds the difference once
    seed: int = 0  # not used: the same every time


def draw_sampler(draw: Draw, enlarge: int = 2) -> Sampler:
    """Pictures from the prior, by `draw`."""

    def prepare(request: DrawRequest) -> tuple[int, dict[str, Any]]:
        at_least_one(count=request.count)
        if request.temperature < 0:
            raise UserError(f"temperature has to be 0 or more, not {request.temperature}.")
        return request.count, {"temperature": np.float32(request.temperature)}

    def sample(model: Model, key: Key, count: int, arrays: dict[str, Any]) -> dict[str, Array]:
        return {"image": draw(model, key, count, arrays["temperature"])}

    return Sampler(DrawRequest, prepare, sample, _rendered(enlarge))


def reconstruction_sampler(
    reconstruct: Callable[[Model, Key, Array], Array], pictures: Items, enlarge: int = 2
) -> Sampler:
    """Originals and their reconstructions side by side.

    reconstruct: (model, key, pictures) -> pictures.
    pictures: data with an "image" leaf.
    """

    def prepare(request: ReconstructRequest) -> tuple[None, dict[str, Any]]:
        at_least_one(count=request.count)
        return None, {"image": taken(pictures, request.first, request.count)["image"]}

    def sample(model: Model, key: Key, static: None, arrays: dict[str, Any]) -> dict[str, Array]:
        made = reconstruct(model, key, jnp.asarray(arrays["image"]))
        pairs = jnp.stack([jnp.asarray(arrays["image"]), made], axis=1)
        return {"image": pairs.reshape(-1, *made.shape[1:])}

    return Sampler(ReconstructRequest, prepare, sample, _rendered(enlarge))


def walk_sampler(encode: Encode, decode: Decode, pictures: Items, enlarge: int = 2) -> Sampler:
    """Spherical walks between the latents of neighbouring pictures of the data."""

    def prepare(request: WalkRequest) -> tuple[int, dict[str, Any]]:
        at_least_one(count=request.count, steps=request.steps)
        return request.steps, {"image": taken(pictures, request.first, request.count + 1)["image"]}

    def sample(model: Model, key: Key, steps: int, arrays: dict[str, Any]) -> dict[str, Any]:
        latents = encode(model, jnp.asarray(arrays["image"]))
        ways = jax.vmap(spherical, (0, 0, None))(
            latents[:-1], latents[1:], jnp.linspace(0.0, 1.0, steps)
        )
        return {"image": decode(model, ways.reshape(-1, *latents.shape[1:])), "columns": steps}

    return Sampler(WalkRequest, prepare, sample, _rendered(enlarge))


def traversal_sampler(encode: Encode, decode: Decode, pictures: Items, enlarge: int = 2) -> Sampler:
    """One picture's latent moved along the axes that vary most over the first 500 of the data."""

    def prepare(request: TraversalRequest) -> tuple[Any, dict[str, Any]]:
        at_least_one(axes=request.axes, steps=request.steps)
        arrays = {
            "image": taken(pictures, request.picture, 1)["image"],
            "others": taken(pictures, 0, min(500, len(pictures)))["image"],
            "reach": np.float32(request.reach),
        }
        return (request.axes, request.steps), arrays

    def sample(model: Model, key: Key, static: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        axes, steps = static
        latent = encode(model, jnp.asarray(arrays["image"]))
        others = encode(model, jnp.asarray(arrays["others"])).reshape(len(arrays["others"]), -1)
        deviation = others.std(0)
        axes = min(axes, deviation.size)
        chosen = jnp.argsort(-deviation)[:axes]
        places = jnp.linspace(-1.0, 1.0, steps) * arrays["reach"]
        moves = jax.nn.one_hot(chosen, deviation.size) * deviation[chosen][:, None]
        moved = latent.reshape(1, 1, -1) + places[None, :, None] * moves[:, None, :]
        return {"image": decode(model, moved.reshape(-1, *latent.shape[1:])), "columns": steps}

    return Sampler(TraversalRequest, prepare, sample, _rendered(enlarge))


def attribute_sampler(
    encode: Encode, decode: Decode, pictures: Items, classes: int, enlarge: int = 2
) -> Sampler:
    """Attribute vectors (White 2016): the difference between two classes' mean latents.

    pictures: data with "image" and "label" leaves; the means are taken over its first 2,000.
    """

    def prepare(request: AttributeRequest) -> tuple[int, dict[str, Any]]:
        at_least_one(count=request.count, steps=request.steps)
        seen = pictures[np.arange(min(2000, len(pictures)))]
        sets = []
        for wanted in (request.source, request.target):
            members = np.flatnonzero(seen["label"] == wanted)
            if not 0 <= wanted < classes or not len(members):
                raise UserError(f"There is no class {wanted}: take one of 0 to {classes - 1}.")
            sets.append(seen["image"][members])
        return request.steps, {
            "image": sets[0][: request.count],
            "source": sets[0],
            "target": sets[1],
            "reach": np.float32(request.reach),
        }

    def sample(model: Model, key: Key, steps: int, arrays: dict[str, Any]) -> dict[str, Any]:
        means = [encode(model, jnp.asarray(arrays[name])).mean(0) for name in ("source", "target")]
        latents = encode(model, jnp.asarray(arrays["image"]))
        places = jnp.linspace(0.0, 1.0, steps) * arrays["reach"]
        ways = latents[:, None] + jnp.tensordot(places, means[1] - means[0], axes=0)[None]
        return {"image": decode(model, ways.reshape(-1, *latents.shape[1:])), "columns": steps}

    return Sampler(AttributeRequest, prepare, sample, _rendered(enlarge))


def autoencoder_samplers(
    draw: Draw,
    reconstruct: Callable[[Model, Key, Array], Array],
    encode: Encode,
    decode: Decode,
    pictures: Items,
    classes: int,
) -> dict[str, Sampler]:
    """All of the above by name, for a model whose latents are points of a space."""
    return {
        "draw": draw_sampler(draw),
        "reconstruct": reconstruction_sampler(reconstruct, pictures),
        "walk": walk_sampler(encode, decode, pictures),
        "traverse": traversal_sampler(encode, decode, pictures),
        "attribute": attribute_sampler(encode, decode, pictures, classes),
    }


def _rendered(enlarge: int) -> Callable[[Any], Images]:
    def render(drawn: dict[str, Any]) -> Images:
        columns = int(drawn.get("columns", 10))
        return Images.of_signed(drawn["image"], columns=columns, enlarge=enlarge)

    return render
