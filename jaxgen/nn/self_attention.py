"""Causal self-attention as a layer, with its key-value cache handed in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.attention import attention
from jaxgen.nn.linear import Linear
from jaxgen.nn.rotary import Angles, rotate
from jaxgen.nn.visibility import Implementation


@flax.struct.dataclass
class KeyValueCache:
    """The keys and values of the positions seen so far, each (batch, positions, groups, depth)."""

    key: Any
    value: Any


@flax.struct.dataclass
class Places:
    """Where the vectors of one call stand; the same for all layers.

    positions: each vector's place in its own text, (1 or batch, time).
    segments: vectors of unequal segments don't see each other (packed texts), (batch, time).
    offset: the place in the cache of each row's first vector, (batch,); the cache holds those
        before it. None: the call begins at place 0 and reads no cache.
    capacity: makes a new cache with so many places, and writes the vectors in from place 0.
    """

    positions: Any
    segments: Any = None
    offset: Any = None
    capacity: int | None = flax.struct.field(pytree_node=False, default=None)


class SelfAttention(nn.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017).

    heads: query heads; each has width/heads numbers unless `depth` is given.
    groups: key and value heads, a divisor of `heads`; None has as many.
    query_key_norm: makes the normalization of queries and keys over their depth (Henry et al.
        2020, Dehghani et al. 2023), or None.
    rotary: angles from positions and depth, as `rotary_angles` makes them, or None.
    dropout: the probability to drop an attention weight.
    implementation: passed to `attention`.
    """

    heads: int
    groups: int | None = None
    depth: int | None = None
    bias: bool = True
    query_key_norm: Callable[..., nn.Module] | None = None
    rotary: Callable[[Array, int], Angles] | None = None
    dropout: float = 0.0
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    implementation: Implementation | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time width"],
        places: Places,
        cache: KeyValueCache | None = None,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "batch time width"], KeyValueCache | None]:
        """Lets each position look at itself and those before it.

        Args:
            places: where the vectors stand.
            cache: returned with the keys and values of `x` written in.
            deterministic: switches dropout off.
        """
        depth = self.depth or x.shape[-1] // self.heads
        groups = self.groups or self.heads
        query, key, value = self._projected(x, groups, depth)
        if self.query_key_norm is not None:
            query = self.query_key_norm(name="query_norm")(query)
            key = self.query_key_norm(name="key_norm")(key)
        if self.rotary is not None:
            angles = self.rotary(places.positions, depth)
            query, key = rotate(query, angles), rotate(key, angles)
        if places.capacity is not None:
            room = ((0, 0), (0, places.capacity - x.shape[1]), (0, 0), (0, 0))
            cache = KeyValueCache(jnp.pad(key, room), jnp.pad(value, room))
        elif cache is not None:
            cache = _written(cache, key, value, places.offset)
            key, value = cache.key, cache.value
        dropout = 0.0 if deterministic else self.dropout
        out = attention(
            query,
            key,
            value,
            causal=True,
            offset=0 if places.offset is None else places.offset,
            segments=None if places.segments is None else (places.segments, places.segments),
            dropout=dropout,
            dropout_key=self.make_rng("dropout") if dropout > 0 else None,
            implementation=self.implementation,
        )
        out = Linear(
            (x.shape[-1],),
            ("heads", "head_dim", "embed"),
            2,
            self.bias,
            self.output_initializer,
            self.dtype,
            name="out",
        )(out)
        return out, cache

    def _projected(
        self, x: Float[Array, "batch time width"], groups: int, depth: int
    ) -> tuple[Array, Array, Array]:
        batch, time, width = x.shape
        names = ("embed", "heads", "head_dim")
        layers = [
            Linear((heads, depth), names, 1, self.bias, self.initializer, self.dtype, name=name)
            for name, heads in (("query", self.heads), ("key", groups), ("value", groups))
        ]
        kernels, biases = zip(*(layer.weights((width,)) for layer in layers), strict=True)
        # One wide product is faster than three. Each group's columns lie together, so that
        # splitting groups over devices still splits this product.
        kernel = jnp.concatenate([k.reshape(width, groups, -1) for k in kernels], axis=2)
        y = jnp.dot(x.astype(self.dtype).reshape(-1, width), kernel.reshape(width, -1))
        y = y.reshape(batch, time, groups, -1)
        if self.bias:
            bias = jnp.concatenate([b.reshape(1, 1, groups, -1) for b in biases], axis=3)
            y = y + bias
        query, key, value = jnp.split(y, [y.shape[-1] - 2 * depth, y.shape[-1] - depth], axis=3)
        return query.reshape(batch, time, self.heads, depth), key, value


def _written(
    cache: KeyValueCache,
    key: Float[Array, "batch time groups depth"],
    value: Float[Array, "batch time groups depth"],
    offset: Int[Array, "batch"],
) -> KeyValueCache:
    def row(kept: Array, new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(kept, new.astype(kept.dtype), (start, 0, 0))

    write = jax.vmap(row)
    return KeyValueCache(write(cache.key, key, offset), write(cache.value, value, offset))
