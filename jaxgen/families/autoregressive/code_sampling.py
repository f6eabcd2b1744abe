"""Pictures from an autoregressive prior over the codes of a quantizing autoencoder.

A picture is a row of tokens: first its class, then its codes, row by row of their grid. Codes are
the tokens 0 .. codes - 1, and class c is the token codes + c. (The prior over codes is of van den
Oord et al. 2017, section 3.3; the condition in front of them, of Esser et al. 2021, "Taming
Transformers for High-Resolution Image Synthesis", section 3.2.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxgen.artifacts import Images
from jaxgen.errors import UserError
from jaxgen.experiment import Key, Model, Params, Sampler
from jaxgen.families.autoregressive.decoder import Decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.logits import (
    Processor,
    composed,
    first_tokens,
    temperature,
    top_k,
)

_COLUMNS = 10  # of the grid; without a label, each of its rows shows one class

# Codes (count, height, width) to pictures (count, height, width, channels) in [-1, 1].
Pictures = Callable[[Array], Array]


@dataclass(frozen=True)
class CodeRequest:
    """What to draw."""

    label: int = -1  # class to draw; -1: each row of ten shows the next class
    count: int = 100  # how many pictures
    temperature: float = 1.0  # below 1 is safer, above 1 bolder; 0 takes the likeliest code
    top_k: int = 0  # draw from so many likeliest codes; 0 is all
    seed: int = 0  # another seed draws other pictures


def as_tokens(
    indices: Int[np.ndarray, "count height width"], labels: Int[np.ndarray, "count"], codes: int
) -> Int[np.ndarray, "count length"]:
    """Pictures as the prior reads them: class token, then the codes, int32."""
    rows = indices.reshape(len(indices), -1)
    return np.concatenate([codes + labels[:, None], rows], axis=1).astype(np.int32)


def draw_codes(
    decoder: Decoder,
    params: Params,
    key: Key,
    labels: Int[Array, "count"],
    process: Processor,
    *,
    codes: int,
    grid: tuple[int, int],
) -> Int[Array, "count height width"]:
    """Grids of codes of the asked classes, drawn code by code from the processed logits."""
    height, width = grid
    prompts = (codes + labels[:, None]).astype(jnp.int32)
    # A class token never follows.
    choice = sampled(first_tokens(codes), process)
    lengths = jnp.ones(labels.shape, jnp.int32)
    # The decoding loop reads the last code too, so class and codes all need a place.
    rows, _ = generate(decoder, params, key, prompts, lengths, choice, height * width)
    return rows.reshape(-1, height, width)


def code_sampler(
    decoder: Decoder,
    pictures: Pictures,
    *,
    codes: int,
    grid: tuple[int, int],
    classes: int,
    enlarge: int = 2,
) -> Sampler:
    """A class-conditional picture `Sampler`: codes by temperature, then top-k, then `pictures`.

    `sample` gives {"image": (count, height, width, channels)} in [-1, 1].

    decoder: with a context of at least the grid's places and one.
    pictures: the autoencoder's decoder.
    codes, grid: how many codes there are, and the height and width of a picture in codes.

    Raises:
        UserError: for a decoder that is too short; by `prepare`, for a request out of range.
    """
    needed = grid[0] * grid[1] + 1
    if decoder.context is not None and decoder.context < needed:
        raise UserError(
            f"A prior over {grid[0]}×{grid[1]} codes needs a context of {needed}, the class "
            f"included, and this decoder has {decoder.context}: widen it."
        )

    def prepare(request: CodeRequest) -> tuple[None, dict[str, Any]]:
        for name, good, cure in (
            ("count", request.count >= 1, "at least 1"),
            ("temperature", request.temperature >= 0, "at least 0"),
            ("top_k", request.top_k >= 0, "at least 0"),
            ("label", -1 <= request.label < classes, f"between 0 and {classes - 1}, or -1 for all"),
        ):
            if not good:
                raise UserError(f"{name} must be {cure}, not {getattr(request, name)}.")
        labels = np.full(request.count, request.label, np.int32)
        if request.label == -1:
            labels = (np.arange(request.count, dtype=np.int32) // _COLUMNS) % classes
        return None, {
            "label": labels,
            "temperature": np.float32(request.temperature),
            "top_k": np.int32(request.top_k),
        }

    def sample(model: Model, key: Key, static: None, arrays: dict[str, Any]) -> dict[str, Array]:
        process = composed(temperature(arrays["temperature"]), top_k(arrays["top_k"]))
        labels = jnp.asarray(arrays["label"])
        indices = draw_codes(decoder, model.params, key, labels, process, codes=codes, grid=grid)
        return {"image": pictures(indices)}

    def render(drawn: dict[str, Any]) -> Images:
        return Images.of_signed(drawn["image"], columns=_COLUMNS, enlarge=enlarge)

    return Sampler(CodeRequest, prepare, sample, render)
