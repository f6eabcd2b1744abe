"""Which keys each query sees, and the signature that every implementation of attention has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Query = Float[Array, "batch time heads depth"]
Keys = Float[Array, "batch positions groups depth"]
Values = Float[Array, "batch positions groups value_depth"]
Result = Float[Array, "batch time heads value_depth"]
Segments = tuple[Int[Array, "batch time"], Int[Array, "batch positions"]]


@flax.struct.dataclass
class Visibility:
    """Which keys a query may see, and which of those it happens to drop.

    causal: query t sees the keys up to position offset + t.
    offset: the position of the first query among the keys, a scalar or one a row (batch,).
    mask: True where visible, (batch or 1, heads or 1, time, positions), or None.
    segments: integers (batch, time) and (batch, positions); unequal ones don't see each other.
    dropout: the probability to drop a weight; 0.0 needs no key.
    """

    causal: bool = flax.struct.field(pytree_node=False)
    offset: Any
    mask: Any
    segments: Any
    dropout: float = flax.struct.field(pytree_node=False)
    dropout_key: Any

    @property
    def from_the_start(self) -> bool:
        """Whether query 0 is known to stand at key 0."""
        return isinstance(self.offset, int) and self.offset == 0


# Attention itself; the last argument multiplies the scores.
Implementation = Callable[[Query, Keys, Values, Visibility, float], Result]


def visible(
    visibility: Visibility, time: int, positions: int
) -> Bool[Array, "rows planes time positions"] | None:
    """`visibility` written out as a mask, rows and planes 1 where they don't matter, or None."""
    masks = []
    if visibility.causal:
        offset = jnp.reshape(jnp.asarray(visibility.offset), (-1, 1, 1, 1))
        index = jnp.arange(time).reshape(1, 1, time, 1) + offset
        masks.append(index >= jnp.arange(positions).reshape(1, 1, 1, positions))
    if visibility.mask is not None:
        masks.append(visibility.mask)
    if visibility.segments is not None:
        of_query, of_key = visibility.segments
        masks.append(of_query[:, None, :, None] == of_key[:, None, None, :])
    if not masks:
        return None
    combined = masks[0]
    for mask in masks[1:]:
        combined = combined & mask
    return combined
