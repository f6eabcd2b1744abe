"""What all recurrent layers share: marks on a sequence, and the loop over its steps.

A recurrent layer is a Linen module with two methods:

    initial(batch) -> carry                                        what it remembers of nothing
    __call__(x, carry=None, marks=None, deterministic=True) -> (y, carry)

x is (batch, time, features), y (batch, time, width), and a carry a tuple of arrays (batch, ...). A
sequence may be read in parts, or step by step: the carry that comes out of one part goes into the
next, and the outputs are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Carry = tuple[Any, ...]
Small = Any  # parameters of few numbers
# (small, inputs of a step, carry, hidden·kernel (batch, gates, width)) -> the next carry
Point = Callable[[Small, Any, Carry, Array], Carry]


@flax.struct.dataclass
class Marks:
    """Where a sequence isn't simply read on; each (batch, time) bool, or None for nowhere.

    begins: True where a new text begins: all before is forgotten.
    reads: False where there is nothing to read: the carry stays as it is.
    """

    begins: Any = None
    reads: Any = None


def time_major(tree: Any) -> Any:
    """Swaps the first two axes of every leaf: (batch, time, ...) and (time, batch, ...)."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def chosen(where: Bool[Array, "batch"] | None, yes: Any, no: Any) -> Any:
    """Row by row, one of two carries; `yes` where nothing is marked."""
    if where is None:
        return yes

    def pick(yes: Array, no: Array) -> Array:
        return jnp.where(where.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)

    return jax.tree.map(pick, yes, no)


def forgotten(begins: Bool[Array, "batch"] | None, carry: Carry) -> Carry:
    """A carry, with 0 in the rows that begin anew."""
    if begins is None:
        return carry
    return chosen(~begins, carry, jax.tree.map(jnp.zeros_like, carry))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    point: Point,
    unroll: int,
    kernel: Float[Array, "hidden gates width"] | Float[Array, "heads depth gates depth"],
    small: Small,
    inputs: Any,
    carry: Carry,
    marks: Marks,
    mask: Float[Array, "batch hidden"] | None,
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Steps through a sequence by a cell whose only large product is hidden·kernel.

    What a step does besides is `point`, which acts on each number of the width by itself. The
    kernel's gradient is then one product over all steps, where differentiating a scan would add up
    a small one in each.

    unroll: steps that are compiled side by side.
    kernel: of all heads, or block-diagonal, a block a head.
    inputs: a tree of arrays (time, batch, ...), what the step takes in besides the carry.
    carry: its first array is what the kernel multiplies, the layer's output.
    marks: (time, batch).
    mask: multiplies the hidden vectors in the product, at all steps alike (variational dropout).

    Returns the first array of each step's carry, and the last carry.
    """

    def one(carry: Carry, step: Any) -> tuple[Carry, Array]:
        carry, _ = _step(point, kernel, small, mask, carry, step)
        return carry, carry[0]

    carry, outputs = jax.lax.scan(one, carry, (inputs, marks), unroll=unroll)
    return outputs, carry


def _step(
    point: Point, kernel: Array, small: Small, mask: Array | None, carry: Carry, step: Any
) -> tuple[Carry, tuple[Carry, Array]]:
    """The next carry; and the carry that was read, with its product with the kernel."""
    inputs, marks = step
    read = forgotten(marks.begins, carry)
    product = _product(read[0] if mask is None else read[0] * mask, kernel)
    new = chosen(marks.reads, point(small, inputs, read, product), read)
    return new, (read, product)


def _forward(
    point: Point, unroll: int, kernel: Array, small: Small, inputs: Any, carry: Carry,
    marks: Marks, mask: Array | None,
) -> Any:  # fmt: skip
    def one(carry: Carry, step: Any) -> tuple[Carry, Any]:
        carry, seen = _step(point, kernel, small, mask, carry, step)
        return carry, (carry[0], seen)

    carry, (outputs, seen) = jax.lax.scan(one, carry, (inputs, marks), unroll=unroll)
    return (outputs, carry), (kernel, small, inputs, marks, mask, seen)


def _backward(point: Point, unroll: int, kept: Any, slopes: Any) -> Any:
    kernel, small, inputs, marks, mask, (reads, products) = kept
    output_slopes, last = slopes

    def one(state: tuple[Carry, Small], step: Any) -> tuple[tuple[Carry, Small], Any]:
        (slope, of_small), (from_output, inputs, marks, read, product) = state, step
        slope = (slope[0] + from_output, *slope[1:])
        nothing = jax.tree.map(jnp.zeros_like, slope)
        _, back = jax.vjp(point, small, inputs, read, product)
        added, of_inputs, of_read, of_product = back(chosen(marks.reads, slope, nothing))
        # Where nothing was read the carry went through.
        if marks.reads is not None:
            of_read = jax.tree.map(jnp.add, of_read, chosen(marks.reads, nothing, slope))
        through = _product(of_product, kernel, backwards=True)
        through = through if mask is None else through * mask
        of_read = (of_read[0] + through, *of_read[1:])
        of_small = jax.tree.map(jnp.add, of_small, added)
        return (forgotten(marks.begins, of_read), of_small), (of_inputs, of_product)

    begin = last, jax.tree.map(jnp.zeros_like, small)
    steps = (output_slopes, inputs, marks, reads, products)
    (first, of_small), (of_inputs, of_products) = jax.lax.scan(
        one, begin, steps, reverse=True, unroll=unroll
    )
    hidden = reads[0] if mask is None else reads[0] * mask[None]
    of_kernel = _kernel_slope(hidden, of_products, kernel)
    return of_kernel, of_small, of_inputs, first, None, None


recur.defvjp(_forward, _backward)


def _product(x: Array, kernel: Array, backwards: bool = False) -> Array:
    """hidden·kernel, (batch, gates, width); or backwards, from there to (batch, hidden)."""
    if kernel.ndim == 4:
        heads, depth, gates, _ = kernel.shape
        if backwards:
            apart = x.reshape(len(x), gates, heads, depth)
            return jnp.einsum("bghe,hdge->bhd", apart, kernel).reshape(len(x), -1)
        made = jnp.einsum("bhd,hdge->bghe", x.reshape(len(x), heads, depth), kernel)
        return made.reshape(len(x), gates, -1)
    flat = kernel.reshape(len(kernel), -1)
    if backwards:
        return jnp.dot(x.reshape(len(x), -1), flat.T)
    return jnp.dot(x, flat).reshape(len(x), *kernel.shape[1:])


def _kernel_slope(hidden: Array, slopes: Array, kernel: Array) -> Array:
    rows = math.prod(hidden.shape[:2])
    if kernel.ndim == 4:
        heads, depth, gates, _ = kernel.shape
        apart = slopes.reshape(rows, gates, heads, depth)
        return jnp.einsum("bhd,bghe->hdge", hidden.reshape(rows, heads, depth), apart)
    return jnp.dot(hidden.reshape(rows, -1).T, slopes.reshape(rows, -1)).reshape(kernel.shape)
