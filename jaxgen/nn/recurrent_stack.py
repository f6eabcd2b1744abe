"""Recurrent layers on top of one another, plain, residual, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.nn.recurrence import Carry, Marks

Vectors = Float[Array, "batch time features"]
Outputs = Float[Array, "batch time width"]


class RecurrentStack(nn.Module):
    """Layers, each of which reads what the one below wrote. The carry is a tuple of theirs.

    layers: each makes a recurrent layer as `recurrence.py` describes them, called with `name`.
    norm: makes a normalization before each layer and each `mlp`, and one at the end, called with
        `name`; None has none.
    mlp: makes a position-wise network after each layer, called with `dtype` and `name`, or None.
    residual: adds what goes into a layer to what comes out; both are as wide.
    dropout: on what each layer writes.
    variational: drops the same numbers at all steps of a row (Gal & Ghahramani 2016).
    dtype: of what the `mlp` computes.
    """

    layers: Sequence[Callable[..., nn.Module]]
    norm: Callable[..., nn.Module] | None = None
    mlp: Callable[..., nn.Module] | None = None
    residual: bool = False
    dropout: float = 0.0
    variational: bool = False
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """What the layers remember of nothing."""
        return tuple(layer(parent=None).initial(batch) for layer in self.layers)

    @nn.compact
    def __call__(
        self,
        x: Vectors,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """The top layer's vectors, and what the layers remember."""
        carries = []
        drop = nn.Dropout(self.dropout, broadcast_dims=(1,) if self.variational else ())
        for number, make in enumerate(self.layers):
            layer = make(name=f"layer_{number}")
            before = None if carry is None else carry[number]
            y = x if self.norm is None else self.norm(name=f"norm_{number}")(x)
            y, after = layer(y, before, marks, deterministic)
            carries.append(after)
            y = drop(y, deterministic=deterministic)
            x = x + y if self.residual else y
            if self.mlp is not None:
                y = x if self.norm is None else self.norm(name=f"mlp_norm_{number}")(x)
                y = self.mlp(dtype=self.dtype, name=f"mlp_{number}")(y)
                x = x + drop(y, deterministic=deterministic)
        return (x if self.norm is None else self.norm(name="norm")(x)), tuple(carries)


class BothWays(nn.Module):
    """One layer that reads on and one that reads back, side by side (Schuster & Paliwal 1997).

    forward, backward: make recurrent layers, called with `name`.
    """

    forward: Callable[..., nn.Module]
    backward: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self,
        x: Vectors,
        reads: Bool[Array, "batch time"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, tuple[Carry, Carry]]:
        """Both layers' vectors at each place, one after the other; and both last carries.

        reads: False where there is padding, which is at a row's end.
        """
        marks = Marks(reads=reads)
        on, last = self.forward(name="forward")(x, None, marks, deterministic)
        back, first = self.backward(name="backward")(turned(x, reads), None, marks, deterministic)
        return jnp.concatenate([on, turned(back, reads)], axis=-1), (last, first)


def turned(x: Vectors, reads: Bool[Array, "batch time"] | None) -> Vectors:
    """Each row back to front, padding left where it is."""
    if reads is None:
        return x[:, ::-1]
    sizes = reads.sum(1, keepdims=True)
    places = jnp.arange(x.shape[1])[None, :]
    places = jnp.where(places < sizes, sizes - 1 - places, places)
    return jnp.take_along_axis(x, places[..., None], axis=1)
