"""Vector quantization with a code-book that follows the encoder by moving averages.

The code-book of the VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete
Representation Learning", appendix A.1): instead of a gradient, each code moves towards the mean of
the latents that chose it. That is k-means, run along with the training of the encoder; with a
decay of 0 and one batch it is exactly Lloyd's algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Key
from jaxgen.families.vae.quantization import (
    Indices,
    Latent,
    Quantized,
    Quantizer,
    code_counts,
    code_usage,
)

Vectors = Float[Array, "vectors dimensions"]
Book = Float[Array, "codes dimensions"]

# Equation numbers below are those of the appendix: N, m and e are its own letters.
_SMOOTHING = 1e-5  # ε, added to every count


@flax.struct.dataclass
class CodeBook:
    """Moving averages over batches, from which the codes follow.

    count: how many latents of a batch choose each code, (codes,); the paper's N.
    total: the sum of those latents, (codes, dimensions); the paper's m.
    """

    count: Any
    total: Any


def code_vectors(book: CodeBook) -> Book:
    """The codes themselves, e = m / N, with N smoothed after Laplace so that it is never 0.

    Every count gains ε, and all are scaled so that they still sum to what they did.
    """
    whole = jnp.sum(book.count)
    smoothed = (book.count + _SMOOTHING) / (whole + book.count.shape[0] * _SMOOTHING) * whole
    return book.total / smoothed[:, None]


def nearest(vectors: Vectors, codes: Book) -> Int[Array, "vectors"]:
    """The index of the code at the smallest Euclidean distance; of equals, the first."""
    # ‖z - e‖² without ‖z‖², which all codes share. In full precision, since the large terms
    # cancel and a rounded product would choose wrongly.
    products = jnp.dot(vectors, codes.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(codes**2, axis=1)[None, :] - 2 * products, axis=1).astype(jnp.int32)


def vector_quantizer(
    codes: int,
    dimensions: int,
    *,
    estimate: Callable[[Latent, Latent], Latent],
    decay: float = 0.99,
    commitment: float = 0.25,
    restart_below: float = 1.0,
) -> Quantizer:
    """The VQ-VAE's quantizer, to be trained without a gradient of its own.

    estimate: how gradients get from code to latent: `straight_through` or `rotated`.
    decay: γ of the moving averages.
    commitment: β, the weight of the mean squared distance of latents from their codes, which
        holds the encoder near the code-book (equation 3).
    restart_below: a code chosen by fewer latents a batch, on the moving average, is dead and
        becomes one of the batch's latents (Dhariwal et al. 2020, "Jukebox", section 3.1). It starts
        at just this average, so it is drawn anew each step until it is chosen as often. 0 lets
        codes die, and so does training without a key.

    On a mesh the sums run over the whole batch, wherever its rows lie.
    """

    def init(key: Key) -> CodeBook:
        vectors = jax.random.normal(key, (codes, dimensions))
        return CodeBook(count=jnp.ones(codes), total=vectors)

    def quantize(latent: Latent, state: CodeBook, key: Key | None, train: bool) -> Quantized:
        vectors = jax.lax.stop_gradient(latent).reshape(-1, dimensions)
        book = code_vectors(state)
        chosen = nearest(vectors, book)
        indices = chosen.reshape(latent.shape[:-1])
        values = look_up(indices, state)
        if train:
            state = moved(state, vectors, chosen, decay)
            if key is not None and restart_below > 0:
                state = restarted(state, vectors, key, restart_below)
        return Quantized(
            values=estimate(latent, values),
            indices=indices,
            loss=commitment * jnp.mean((latent - values) ** 2),
            state=state,
            metrics=code_usage(code_counts(indices, codes)),
        )

    def look_up(indices: Indices, state: CodeBook) -> Latent:
        return jnp.take(code_vectors(state), indices, axis=0)

    return Quantizer(codes, dimensions, init, quantize, look_up)


def moved(
    book: CodeBook, vectors: Vectors, chosen: Int[Array, "vectors"], decay: float
) -> CodeBook:
    """The averages after one more batch: N ← γN + (1-γ)n and m ← γm + (1-γ)Σz, each code's own."""
    # A product rather than a scattered sum: that would add in another order each time on GPUs.
    member = jax.nn.one_hot(chosen, book.count.shape[0], dtype=vectors.dtype)
    total = jnp.dot(member.T, vectors, precision=jax.lax.Precision.HIGHEST)
    return CodeBook(
        count=decay * book.count + (1 - decay) * jnp.sum(member, axis=0),
        total=decay * book.total + (1 - decay) * total,
    )


def restarted(book: CodeBook, vectors: Vectors, key: Key, below: float) -> CodeBook:
    """The code-book with every code whose count is less than `below` put on a random vector."""
    codes = book.count.shape[0]
    drawn = jax.random.randint(key, (codes,), 0, vectors.shape[0])
    dead = book.count < below
    fresh = below * jnp.take(vectors, drawn, axis=0)
    return CodeBook(
        count=jnp.where(dead, below, book.count),
        total=jnp.where(dead[:, None], fresh, book.total),
    )
