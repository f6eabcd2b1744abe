"""Finite scalar quantization: round each dimension to a few levels, and keep no code-book.

Mentzer, Minnen, Agustsson & Tschannen 2023, "Finite Scalar Quantization: VQ-VAE Made Simple"
(arXiv 2309.15505). The code-book is implied: every combination of levels is a code. Nothing is
learned but encoder and decoder, there is no loss of its own, and no code can die.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.experiment import Key
from jaxgen.families.vae.quantization import (
    Indices,
    Latent,
    Quantized,
    Quantizer,
    code_counts,
    code_usage,
    straight_through,
)

# How far the bound stays from the border between the outermost level and one that isn't there.
_MARGIN = 1e-3


def finite_scalar_quantizer(levels: Sequence[int]) -> Quantizer:
    """A quantizer of as many dimensions as there are `levels`, with their product of codes.

    Values lie in [-1, 1]: whole steps from -⌊L/2⌋ on, divided by ⌊L/2⌋. Code 0 is the lowest level
    of all dimensions, and the first dimension counts fastest. The paper advises at least 5 levels.
    Raises `UserError` for fewer than 3 in a dimension, since the bound's half-step shift would
    then reach the border of what tanh can give.
    """
    if not levels or min(levels) < 3:
        raise UserError(
            f"Finite scalar quantization needs at least 3 levels in each dimension, not "
            f"{tuple(levels)}: choose for example (8, 6, 5), which are 240 codes."
        )
    sizes = np.asarray(levels, np.int32)
    half = sizes // 2
    # What one step in a dimension adds to the index: the number of codes of those before it.
    strides = np.concatenate([[1], np.cumprod(sizes)[:-1]]).astype(np.int32)

    def init(key: Key) -> dict[str, Any]:
        return {}

    def quantize(latent: Latent, state: Any, key: Key | None, train: bool) -> Quantized:
        bounded = bound(latent, levels)
        steps = jnp.round(bounded)
        digits = steps.astype(jnp.int32) + _row(half)
        indices = jnp.sum(digits * _row(strides), axis=-1)
        return Quantized(
            values=straight_through(bounded, steps) / _row(half).astype(jnp.float32),
            indices=indices,
            loss=jnp.zeros(()),
            state=state,
            metrics=code_usage(code_counts(indices, math.prod(levels))),
        )

    def look_up(indices: Indices, state: Any) -> Latent:
        digits = indices[..., None] // _row(strides) % _row(sizes)
        return (digits - _row(half)) / _row(half).astype(jnp.float32)

    return Quantizer(math.prod(levels), len(levels), init, quantize, look_up)


def bound(latent: Latent, levels: Sequence[int]) -> Latent:
    """Squeezes dimension i into an interval that rounds to exactly levels[i] whole numbers.

    A tanh, scaled by (L - 1)/2. For even L its range is shifted down by half a step, so that as
    many whole numbers lie in it; the argument is shifted against that, so that 0 stays 0 (`bound`
    in the paper's appendix A.1, with the inverse of tanh, which makes this exact, for its tan).
    """
    sizes = np.asarray(levels)
    reach = (sizes - 1) * (1 - _MARGIN) / 2
    down = np.where(sizes % 2 == 0, 0.5, 0.0)
    shift = np.arctanh(down / reach)
    return jnp.tanh(latent + _real(shift)) * _real(reach) - _real(down)


def _row(numbers: np.ndarray) -> Any:
    """(dimensions,) beside latents: (1, 1, 1, dimensions)."""
    return jnp.asarray(numbers)[None, None, None, :]


def _real(numbers: np.ndarray) -> Any:
    return _row(numbers.astype(np.float32))
