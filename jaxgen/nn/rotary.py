"""Rotary position embedding (RoFormer, Su et al. 2021), and what stretches it to longer texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from jaxgen.errors import UserError

Angles = tuple[Float[Array, "rows time half"], Float[Array, "rows time half"]]
Frequencies = Float32[np.ndarray, "half"]
# The frequencies, and what cosine and sine are multiplied by.
Scaling = Callable[[Frequencies], tuple[Frequencies, float]]


def rotary_angles(
    positions: Int[Array, "rows time"],
    depth: int,
    base: float = 10000.0,
    scaling: Scaling | None = None,
    share: float = 1.0,
) -> Angles:
    """Cosine and sine of each position's angles, in float32.

    Pair i of a head's `depth` numbers turns by base^(-2i/depth) radians a position.

    Args:
        scaling: changes the frequencies, for texts longer than those trained on.
        share: so much of the depth turns, its first numbers; the rest stays as it is.

    Raises:
        UserError: if the turning depth is odd.
    """
    turning = int(depth * share)
    if turning % 2 or not turning:
        raise UserError(
            f"Rotary positions turn pairs, and {turning} of a head's {depth} numbers aren't pairs: "
            "take an even depth."
        )
    frequencies = (base ** (-np.arange(0, turning, 2) / turning)).astype(np.float32)
    magnitude = 1.0
    if scaling is not None:
        frequencies, magnitude = scaling(frequencies)
    angles = positions[:, :, None].astype(jnp.float32) * jnp.asarray(frequencies)[None, None, :]
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(
    x: Float[Array, "batch time heads depth"], angles: Angles
) -> Float[Array, "batch time heads depth"]:
    """Turns each head's pairs (x[i], x[i + n/2]) of its first n numbers, RoFormer eq. 34.

    The pairs are halves apart, as GPT-NeoX, Llama and Hugging Face's weights have them, not
    neighbours as in the paper; the two differ by a permutation of the depth. n is twice the number
    of angles; what lies beyond is left as it is.
    """
    half = angles[0].shape[-1]
    cosine, sine = (angle[:, :, None, :].astype(x.dtype) for angle in angles)
    first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*turned, rest] if rest.shape[-1] else turned, axis=-1)


def interpolated(factor: float) -> Scaling:
    """Positions squeezed by `factor` (position interpolation, Chen et al. 2023)."""
    return partial(_interpolated, factor=factor)


def ntk_aware(factor: float) -> Scaling:
    """The base raised so that the slowest pair slows by `factor` and the fastest not at all.

    "NTK-aware" scaling (bloc97 2023; eq. 15 and 16 of YaRN, Peng et al. 2024).
    """
    return partial(_ntk_aware, factor=factor)


def by_wavelength(
    factor: float, slow: float = 1.0, fast: float = 4.0, original_context: int = 8192
) -> Scaling:
    """Llama 3.1's: slow pairs slow by `factor`, fast ones not at all, those between in part.

    A pair is slow that turns less than `slow` times over the original context, and fast from `fast`
    times on (Llama Team 2024, "The Llama 3 Herd of Models", and its released code).
    """
    return partial(
        _by_wavelength, factor=factor, slow=slow, fast=fast, original_context=original_context
    )


def yarn(
    factor: float,
    original_context: int,
    base: float = 10000.0,
    slow: float = 1.0,
    fast: float = 32.0,
    magnitude: float | None = None,
) -> Scaling:
    """YaRN (Peng et al. 2024): as `by_wavelength`, in steps of pairs, and sharper attention.

    base: that of `rotary_angles`. magnitude: None is 0.1·ln(factor) + 1, their eq. 22.
    """
    return partial(
        _yarn,
        factor=factor,
        original_context=original_context,
        base=base,
        slow=slow,
        fast=fast,
        magnitude=magnitude,
    )


# Functions of the frequencies, with the numbers above bound to them, where they can be read again.
def _interpolated(frequencies: Frequencies, factor: float) -> tuple[Frequencies, float]:
    return (frequencies / factor).astype(np.float32), 1.0


def _ntk_aware(frequencies: Frequencies, factor: float) -> tuple[Frequencies, float]:
    # base·factor^(d / (d - 2)) instead of base: pair i slows by factor^(2i / (d - 2)).
    pairs = np.arange(len(frequencies))
    slower = factor ** (pairs / max(len(frequencies) - 1, 1))
    return (frequencies / slower).astype(np.float32), 1.0


def _by_wavelength(
    frequencies: Frequencies, factor: float, slow: float, fast: float, original_context: int
) -> tuple[Frequencies, float]:
    turns = original_context * frequencies / (2 * math.pi)
    kept = np.clip((turns - slow) / (fast - slow), 0, 1)
    return _between(frequencies, factor, kept), 1.0


def _yarn(
    frequencies: Frequencies,
    factor: float,
    original_context: int,
    base: float,
    slow: float,
    fast: float,
    magnitude: float | None,
) -> tuple[Frequencies, float]:
    half = len(frequencies)

    def pair(turns: float) -> float:
        # Which pair turns so often over the original context.
        return half * math.log(original_context / (turns * 2 * math.pi)) / math.log(base)

    first, last = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), 2 * half - 1)
    kept = 1 - np.clip((np.arange(half) - first) / max(last - first, 1e-3), 0, 1)
    sharper = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return _between(frequencies, factor, kept), sharper if magnitude is None else magnitude


def _between(frequencies: Frequencies, factor: float, kept: Any) -> Frequencies:
    return (frequencies * (kept + (1 - kept) / factor)).astype(np.float32)
