"""Which keys a query sees and how it scores them: what implementations of attention take."""

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
    window: of those it sees the nearest `window` only, its own place among them (Child et al. 2019,
        Beltagy et al. 2020); without `causal`, those less than `window` places away on either side.
    sink_tokens: the first keys of all, which stay visible outside the window (StreamingLLM, Xiao et
        al. 2024).
    offset: the position of the first query among the keys, a scalar or one a row (batch,).
    mask: True where visible, (batch or 1, heads or 1, time, positions), or None.
    segments: integers (batch, time) and (batch, positions); unequal ones don't see each other.
    dropout: the probability to drop a weight; 0.0 needs no key.
    """

    causal: bool = flax.struct.field(pytree_node=False)
    window: int | None = flax.struct.field(pytree_node=False)
    sink_tokens: int = flax.struct.field(pytree_node=False)
    offset: Any
    mask: Any
    segments: Any
    dropout: float = flax.struct.field(pytree_node=False)
    dropout_key: Any

    @property
    def from_the_start(self) -> bool:
        """Whether query 0 is known to stand at key 0."""
        return isinstance(self.offset, int) and self.offset == 0


@flax.struct.dataclass
class Scoring:
    """How a query scores the keys that it sees: soft_cap·tanh(scale·q·k / soft_cap) + bias.

    scale: multiplies the products.
    soft_cap: no score leaves ±soft_cap (Gemma 2, Gemma Team 2024, section 2); None caps nothing.
    bias: added to the scores, (batch or 1, heads, time, positions), or None.
    sinks: the logit of seeing nothing, one a head (heads,), which joins the softmax and adds no
        value (gpt-oss, OpenAI 2025), or None.
    """

    scale: float = flax.struct.field(pytree_node=False)
    soft_cap: float | None = flax.struct.field(pytree_node=False)
    bias: Any
    sinks: Any


# Attention itself.
Implementation = Callable[[Query, Keys, Values, Visibility, Scoring], Result]


def visible(
    visibility: Visibility, time: int, positions: int
) -> Bool[Array, "rows planes time positions"] | None:
    """`visibility` written out as a mask, rows and planes 1 where they don't matter, or None."""
    masks = []
    offset = jnp.reshape(jnp.asarray(visibility.offset), (-1, 1, 1, 1))
    index = jnp.arange(time).reshape(1, 1, time, 1) + offset
    keys = jnp.arange(positions).reshape(1, 1, 1, positions)
    if visibility.causal:
        masks.append(index >= keys)
    if visibility.window is not None:
        near = index - keys < visibility.window
        if not visibility.causal:
            near = near & (keys - index < visibility.window)
        masks.append(near | (keys < visibility.sink_tokens))
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
