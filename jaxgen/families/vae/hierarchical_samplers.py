"""How much of a picture is decided how far up: a sampler for hierarchical VAEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgen.artifacts import Images
from jaxgen.errors import UserError
from jaxgen.experiment import Items, Key, Model, Sampler

# (model, key, pictures, groups that are inferred, temperature of the others) -> pictures
Partly = Callable[[Model, Key, Array, int, Any], Array]


@dataclass(frozen=True)
class LevelsRequest:
    """Pictures of the data, of which only the topmost groups of latents are kept."""

    count: int = 10  # how many pictures, a row each
    first: int = 0  # which picture of the data to begin with
    temperature: float = 0.5  # of the groups below, which are drawn from the prior
    seed: int = 0  # another seed draws other latents


def levels_sampler(
    partly: Partly, pictures: Items, kept: tuple[int, ...], enlarge: int = 2
) -> Sampler:
    """Rows of one picture each: the first `kept` groups inferred, then more, then the original.

    Child 2020, figure 4. `prepare` raises `UserError` for pictures that the data hasn't.

    kept: how many of the topmost groups each column infers.
    """

    def prepare(request: LevelsRequest) -> tuple[None, dict[str, Any]]:
        last = request.first + request.count
        if request.count < 1 or request.first < 0 or last > len(pictures):
            raise UserError(
                f"There are {len(pictures)} pictures in the data, from 0 on: {request.count} from "
                f"{request.first} on can't be shown."
            )
        if request.temperature < 0:
            raise UserError(
                f"A temperature of {request.temperature} is not possible: take 0 or more."
            )
        return None, {
            "image": pictures[np.arange(request.first, last)]["image"],
            "temperature": np.float32(request.temperature),
        }

    def sample(model: Model, key: Key, static: None, arrays: dict[str, Any]) -> dict[str, Array]:
        original = jnp.asarray(arrays["image"])
        # The same key for all: what a column shares with the next one is the same latent.
        columns = [partly(model, key, original, groups, arrays["temperature"]) for groups in kept]
        rows = jnp.stack([*columns, original], axis=1)
        return {"image": rows.reshape(-1, *original.shape[1:])}

    def render(drawn: dict[str, Any]) -> Images:
        pixels = np.clip((np.asarray(drawn["image"], np.float32) + 1) / 2, 0, 1)
        return Images(pixels, columns=len(kept) + 1, enlarge=enlarge)

    return Sampler(LevelsRequest, prepare, sample, render)
