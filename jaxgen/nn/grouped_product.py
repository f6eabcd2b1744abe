"""Products of rows with one of several matrices each, for rows sorted by matrix.

What a dropless mixture of experts is made of (MegaBlocks, Gale et al. 2022). `jax.lax.ragged_dot`
is the product itself; on TPUs a kernel does it, elsewhere XLA multiplies every row with every
matrix and masks. `blocked_product` is for those platforms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.parallel.operations import expected_trips

Rows = Float[Array, "rows inputs"]
Products = Float[Array, "rows outputs"]
Kernels = Float[Array, "groups inputs outputs"]
Sizes = Int[Array, "groups"]

GroupedProduct = Callable[[Rows, Kernels, Sizes], Products]

# Blocks of more rows don't make products faster on CPUs, only their unused ends longer.
_MOST_ROWS = 128


def grouped_product(x: Rows, kernels: Kernels, sizes: Sizes) -> Products:
    """x[i] · kernels[group of row i], in the way that is fastest on the platform.

    The first sizes[0] rows belong to group 0, the next sizes[1] to group 1, and so on. Rows beyond
    all groups get whatever; nothing flows back from them into the kernels.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    product = jax.lax.ragged_dot if platform == "tpu" else blocked_product
    return product(x, kernels, sizes)


@jax.custom_vjp
def blocked_product(x: Rows, kernels: Kernels, sizes: Sizes) -> Products:
    """`grouped_product` by a loop over blocks of rows, as many as the groups happen to need.

    A group's last block reaches into the rows of the next group, whose own first block comes
    later and overwrites what it made there: so nothing is padded and nothing masked.
    """
    return _products(x, kernels, sizes, kernel_axis=1)


def _forward(x: Rows, kernels: Kernels, sizes: Sizes) -> tuple[Array, Any]:
    return _products(x, kernels, sizes, kernel_axis=1), (x, kernels, sizes)


def _backward(kept: Any, slope: Array) -> tuple[Array, Array, None]:
    x, kernels, sizes = kept
    into_x = _products(slope, kernels, sizes, kernel_axis=2)
    return into_x, _outer_products(x, slope, sizes).astype(kernels.dtype), None


blocked_product.defvjp(_forward, _backward)


def _products(
    x: Float[Array, "rows taken"], kernels: Kernels, sizes: Sizes, kernel_axis: int
) -> Float[Array, "rows made"]:
    """Contracts x's last axis with the kernels' `kernel_axis`."""
    size = _rows_per_block(x, sizes)
    place, blocks = _blocks(sizes, size)
    # The last block may reach beyond the last row.
    long = jnp.pad(x, ((0, size), (0, 0)))

    def one(block: Array, made: Array) -> Array:
        group, start, _ = place(block)
        rows = jax.lax.dynamic_slice(long, (start, 0), (size, x.shape[1]))
        kernel = jax.lax.dynamic_index_in_dim(kernels, group, keepdims=False)
        out = jax.lax.dot_general(
            rows,
            kernel,
            (((1,), (kernel_axis - 1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return jax.lax.dynamic_update_slice(made, out.astype(x.dtype), (start, 0))

    made = jnp.zeros((len(long), kernels.shape[3 - kernel_axis]), x.dtype)
    with expected_trips(len(x) / size):
        return jax.lax.fori_loop(0, blocks, one, made)[: len(x)]


def _outer_products(x: Rows, slope: Products, sizes: Sizes) -> Kernels:
    """Each group's sum of x[i]ᵀ · slope[i], in float32."""
    size, count_of_rows = _rows_per_block(x, sizes), len(x)
    place, blocks = _blocks(sizes, size)
    x, slope = (jnp.pad(rows, ((0, size), (0, 0))) for rows in (x, slope))

    def one(block: Array, sums: Array) -> Array:
        group, start, count = place(block)
        mine = (jnp.arange(size) < count)[:, None]
        left = jax.lax.dynamic_slice(x, (start, 0), (size, x.shape[1]))
        right = jax.lax.dynamic_slice(slope, (start, 0), (size, slope.shape[1]))
        sum_ = jax.lax.dot_general(
            jnp.where(mine, left, 0),
            # Rows that aren't the group's may hold anything, infinities included.
            jnp.where(mine, right, 0),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        before = jax.lax.dynamic_index_in_dim(sums, group, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(sums, before + sum_, group, 0)

    sums = jnp.zeros((len(sizes), x.shape[1], slope.shape[1]), jnp.float32)
    with expected_trips(count_of_rows / size):
        return jax.lax.fori_loop(0, blocks, one, sums)


def _rows_per_block(x: Array, sizes: Sizes) -> int:
    """A power of two: about a quarter of a group's share, so that little is computed in vain."""
    share = len(x) // (4 * len(sizes))
    return min(_MOST_ROWS, 1 << max(share, 1).bit_length() - 1)


def _blocks(
    sizes: Sizes, rows_per_block: int
) -> tuple[Callable[[Array], tuple[Array, Array, Array]], Array]:
    """Where each block lies (group, first row, how many of the rows from there are its group's).

    Also how many blocks there are.
    """
    counts = -(-sizes // rows_per_block)
    ends, starts = jnp.cumsum(counts), jnp.cumsum(sizes) - sizes

    def place(block: Array) -> tuple[Array, Array, Array]:
        group = jnp.searchsorted(ends, block, side="right")
        before = (block - (ends[group] - counts[group])) * rows_per_block
        return group, starts[group] + before, sizes[group] - before

    return place, ends[-1]
