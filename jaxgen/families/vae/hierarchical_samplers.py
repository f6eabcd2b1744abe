"""How much of a picture is decided how far up: a sampler for hierarchical VAEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgen.artifacts import Images
from jaxgen.errors import UserError, at_least_one
from jaxgen.experiment import Items, Key, Model, Sampler, taken

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
        at_least_one(count=request.count)
        if request.temperature < 0:
            raise UserError(f"temperature has to be 0 or more, not {request.temperature}.")
        return None, {
            "image": taken(pictures, request.first, request.count)["image"],
            "temperature": np.float32(request.temperature),
        }

    def sample(model: Model, key: Key, static: None, arrays: dict[str, Any]) -> dict[str, Array]:
        original = jnp.asarray(arrays["image"])
        # The same key for all: what a column shares with the next one is the same latent.
        columns = [partly(model, key, original, groups, arrays["temperature"]) for groups in kept]
        rows = jnp.stack([*columns, original], axis=1)
        return {"image": rows.reshape(-1, *original.shape[1:])}

    def render(drawn: dict[str, Any]) -> Images:
        return Images.of_signed(drawn["image"], columns=len(kept) + 1, enlarge=enlarge)

    return Sampler(LevelsRequest, prepare, sample, render)
