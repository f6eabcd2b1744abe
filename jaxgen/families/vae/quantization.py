"""What every quantizer of latents has in common, and how gradients get past one.

A quantizer replaces each vector of a latent grid by one of finitely many. Choosing has no useful
derivative, so the backward pass pretends: `straight_through` that nothing was chosen, `rotated`
that the latent was turned and stretched onto its code. What a quantizer learns without gradients
(a code-book) is its state, which a loss hands back in `Output.variables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Key

Latent = Float[Array, "batch height width dimensions"]
Indices = Int[Array, "batch height width"]
State = Any  # a pytree; that of a quantizer with nothing to keep is {}

# Below this length a latent has no direction that could be turned.
_SHORTEST = 1e-6


@flax.struct.dataclass
class Quantized:
    """A latent grid after quantization.

    values: the chosen codes, (batch, height, width, dimensions), with a gradient to the latent.
    indices: which codes those are, int32 (batch, height, width).
    loss: what the quantizer adds to the objective, a scalar.
    state: the quantizer's next state, of the structure of the one before.
    metrics: scalars to log: "perplexity" and "codes_used" of this batch.
    """

    values: Any
    indices: Any
    loss: Any
    state: Any
    metrics: Any


@dataclass(frozen=True)
class Quantizer:
    """A way to quantize: three functions and two sizes.

    codes: how many there are.
    dimensions: of the latent vectors and of the codes.
    init: `(key) -> state`.
    quantize: `(latent, state, key, train) -> Quantized`. Training moves the state and may draw
        from the key; otherwise the state comes back as it was and the key may be None.
    look_up: `(indices (batch, height, width), state) -> values`: what `quantize` made of them.
    """

    codes: int
    dimensions: int
    init: Callable[[Key], State]
    quantize: Callable[[Latent, State, Key | None, bool], Quantized]
    look_up: Callable[[Indices, State], Latent]


def straight_through(latent: Latent, values: Latent) -> Latent:
    """`values`, whose gradient reaches `latent` unchanged (Bengio, Léonard & Courville 2013)."""
    # Exactly the values: the difference of equals is zero, where z + (q - z) would round.
    return jax.lax.stop_gradient(values) + (latent - jax.lax.stop_gradient(latent))


def rotated(latent: Latent, values: Latent) -> Latent:
    """`values`, as the latent turned and stretched onto them: the rotation trick.

    With e the latent, q its code and hats for unit vectors, q = (‖q‖/‖e‖) R e for the rotation
    R = I - 2 r rᵀ + 2 q̂ êᵀ, r = (ê + q̂)/‖ê + q̂‖, in the plane of both. The factor and R count as
    constants, so a gradient g at q arrives at e as (‖q‖/‖e‖) Rᵀ g: at the angle to e that it had
    to q (Fifty et al. 2024, "Restructuring Vector Quantization with the Rotation Trick", section
    4). A latent of no length has no direction; its gradient goes straight through.
    """
    latent_length = _length(jax.lax.stop_gradient(latent))
    values_length = _length(jax.lax.stop_gradient(values))
    latent_unit = jax.lax.stop_gradient(latent) / jnp.maximum(latent_length, _SHORTEST)
    values_unit = jax.lax.stop_gradient(values) / jnp.maximum(values_length, _SHORTEST)
    between = latent_unit + values_unit
    between /= jnp.maximum(_length(between), _SHORTEST)

    # R is never written out: three products with vectors do what it does.
    turned = latent - 2 * _inner(between, latent) * between
    turned += 2 * _inner(latent_unit, latent) * values_unit
    turned *= values_length / jnp.maximum(latent_length, _SHORTEST)
    turned = jnp.where(latent_length > _SHORTEST, turned, latent)
    return straight_through(turned, values)


def code_counts(indices: Indices, codes: int) -> Int[Array, "{codes}"]:
    """How often each code was chosen; whole numbers, so the same in any order of addition."""
    return jnp.zeros(codes, jnp.int32).at[indices.reshape(-1)].add(1)


def code_usage(counts: Int[Array, "codes"] | Int[np.ndarray, "codes"]) -> dict[str, Array]:
    """How evenly codes are used, from how often each was chosen.

    "perplexity": the exponential of the entropy of their shares, between 1 and the number of
    codes; "codes_used": the share of codes that were chosen at all.
    """
    shares = jnp.asarray(counts) / jnp.maximum(jnp.sum(jnp.asarray(counts)), 1)
    entropy = jnp.sum(jax.scipy.special.entr(shares))
    return {"perplexity": jnp.exp(entropy), "codes_used": jnp.mean(shares > 0, dtype=jnp.float32)}


def code_scores(indices: Iterable[np.ndarray], codes: int) -> dict[str, float]:
    """`code_usage` over all of the indices that a set's batches were given, on the host."""
    counts = np.zeros(codes, np.int32)
    for some in indices:
        counts += np.bincount(np.asarray(some).ravel(), minlength=codes).astype(np.int32)
    return {name: float(value) for name, value in code_usage(counts).items()}


def _length(vectors: Latent) -> Float[Array, "batch height width 1"]:
    return jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def _inner(one: Latent, other: Latent) -> Float[Array, "batch height width 1"]:
    return jnp.sum(one * other, axis=-1, keepdims=True)
