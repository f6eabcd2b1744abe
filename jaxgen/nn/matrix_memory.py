"""A memory of matrices that fades: S_t = a_t·S_{t-1} + v_t·k_tᵀ, y_t = S_t·q_t, by chunks.

It is what Mamba-2's state space and xLSTM's matrix memory come down to. Within a chunk y is
attention with decays for weights, three products of matrices; between chunks S goes on. This is
the state space dual algorithm (Dao & Gu 2024, section 6 and listing 1), after gated linear
attention's chunks (Yang et al. 2023).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Values = Float[Array, "batch time groups members value"]
Keys = Float[Array, "batch time groups key"]
Decays = Float[Array, "batch time groups members"]
Memory = Float[Array, "batch groups members value key"]

# exp of it is 0 in float32; more would cost `_split_sums` its exactness.
LEAST = -200.0


def matrix_memory(
    values: Values,
    keys: Keys,
    queries: Keys,
    log_decay: Decays,
    memory: Memory,
    chunk: int = 64,
    dtype: Any = jnp.float32,
) -> tuple[Values, Memory]:
    """What each step reads from the memory, the step's own value in it, and the last memory.

    values, keys, queries: v, k and q; all members of a group share keys and queries.
    log_decay: log a, at most 0; -inf forgets.
    memory: S before the first step, float32.
    chunk: steps that are read by products of matrices of their number squared.
    dtype: of products, whose sums are float32.

    Returns float32 arrays.
    """
    batch, time = values.shape[:2]
    size = min(chunk, time)
    count = -(-time // size)

    def chunks(x: Array) -> Array:
        """(batch, count, size, ...): filled up with steps that neither forget nor add."""
        x = jnp.pad(x, ((0, 0), (0, count * size - time), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(batch, count, size, *x.shape[2:])

    def product(form: str, *parts: Array) -> Array:
        return jnp.einsum(
            form, *(x.astype(dtype) for x in parts), preferred_element_type=jnp.float32
        )

    # b batch, c chunk, g group, m member, i the step that reads, j the step that is read, v value,
    # k key. Heads go before steps, so that no product has to turn the largest arrays around.
    v = jnp.moveaxis(chunks(values), 2, 4)
    k, q = (jnp.moveaxis(chunks(x), 2, 3) for x in (keys, queries))
    log_decay = jnp.moveaxis(chunks(jnp.maximum(log_decay, LEAST)), 2, 4)
    coarse, fine = _split_sums(log_decay)
    between = _differences(coarse) + _differences(fine)
    earlier = jnp.tril(jnp.ones((size, size), bool))[None, None, None, None]
    decays = jnp.exp(jnp.where(earlier, between, -jnp.inf))
    scores = product("bcgik,bcgjk->bcgij", q, k)[:, :, :, None] * decays
    within = product("bcgmij,bcgmjv->bcgmiv", scores, v)

    until_end = jnp.exp((coarse[..., -1:] - coarse) + (fine[..., -1:] - fine))
    additions = product("bcgmjv,bcgjk->bcgmvk", v * until_end[..., None], k)
    since_start = jnp.exp(coarse + fine)

    def next_chunk(memory: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        decay, addition = chunk
        return decay[..., None, None] * memory + addition, memory

    steps = (jnp.moveaxis(since_start[..., -1], 1, 0), jnp.moveaxis(additions, 1, 0))
    memory, before = jax.lax.scan(next_chunk, memory, steps)
    from_before = product("bcgik,cbgmvk->bcgmiv", q, before) * since_start[..., None]
    y = jnp.moveaxis(within + from_before, 4, 2)
    return y.reshape(batch, count * size, *values.shape[2:])[:, :time], memory


def _split_sums(log_decay: Array) -> tuple[Array, Array]:
    """Sums of log a from each chunk's start, as two whose differences lose no digits.

    After a step that all but forgets, the sum is so large that what follows is rounded away. The
    sum of multiples of 1/64 is exact, and that of the rest remains small.
    """
    coarse = jax.lax.stop_gradient(jnp.round(log_decay * 64) / 64)
    return jnp.cumsum(coarse, axis=-1), jnp.cumsum(log_decay - coarse, axis=-1)


def _differences(sums: Array) -> Array:
    """Sums between each two steps, (..., i, j)."""
    return sums[..., :, None] - sums[..., None, :]
