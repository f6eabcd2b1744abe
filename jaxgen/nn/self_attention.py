"""Self-attention and cross-attention as layers, with their key-value caches handed in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn import linear
from jaxgen.nn.attention import attention
from jaxgen.nn.key_value_cache import (
    KeyValueCache,
    new_cache,
    seen_in_ring,
    slot_positions,
    written,
)
from jaxgen.nn.places import Places
from jaxgen.nn.position_bias import PositionBias
from jaxgen.nn.rotary import Angles, rotate
from jaxgen.nn.saved_tensors import ATTENTION, KEY, QUERY, VALUE, named
from jaxgen.nn.visibility import Implementation
from jaxgen.parallel.sharding import check_divides

Hidden = Float[Array, "batch time width"]


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017).

    heads: query heads; each has width/heads numbers unless `depth` is given.
    groups: key and value heads, a divisor of `heads`; None has as many, 1 is multi-query attention.
    bias, output_bias: whether the maps have one; `output_bias` None is as `bias`.
    query_key_norm: makes the normalization of queries and keys over their depth (Henry et al.
        2020, Dehghani et al. 2023), or None.
    rotary: angles from positions and depth, as `rotary_angles` makes them, or None.
    position_bias: adds to the scores by distance, as `alibi`, or None.
    causal, window, sink_tokens: what each position sees, as `Visibility` has it.
    scale, soft_cap: how it scores that, as `Scoring` has it; `scale` None is 1/√depth.
    sinks: each head learns the logit of seeing nothing.
    dropout: the probability to drop an attention weight.
    initializer: of the maps in; `query_initializer`: of the queries' where theirs is another;
        `output_initializer`: of the map out.
    implementation: passed to `attention`.
    """

    heads: int
    groups: int | None = None
    depth: int | None = None
    bias: bool = True
    output_bias: bool | None = None
    query_key_norm: Callable[..., nn.Module] | None = None
    rotary: Callable[[Array, int], Angles] | None = None
    position_bias: PositionBias | None = None
    causal: bool = True
    window: int | None = None
    sink_tokens: int = 0
    scale: float | None = None
    soft_cap: float | None = None
    sinks: bool = False
    dropout: float = 0.0
    initializer: Any = nn.initializers.normal(0.02)
    query_initializer: Any = None
    output_initializer: Any = nn.initializers.normal(0.02)
    implementation: Implementation | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        places: Places,
        cache: KeyValueCache | None = None,
        deterministic: bool = True,
    ) -> tuple[Hidden, KeyValueCache | None]:
        """Lets each position look at those that it sees.

        Args:
            places: where the vectors stand.
            cache: returned with the keys and values of `x` written in.
            deterministic: switches dropout off.

        Raises:
            UserError: if the heads don't divide the width and no depth is given, the groups don't
                divide the heads, or the mesh can't split them.
        """
        depth = self.depth or _depth(x.shape[-1], self.heads)
        check_divides(self.heads, "heads", "attention heads")
        groups = self.heads if self.groups is None else self.groups
        if groups < 1 or self.heads % groups:
            raise UserError(f"{self.heads} query heads don't share {groups} key heads evenly.")
        query, key, value = self._projected(x, groups, depth)
        if self.query_key_norm is not None:
            query = self.query_key_norm(name="query_norm")(query)
            key = self.query_key_norm(name="key_norm")(key)
        if self.rotary is not None:
            angles = self.rotary(places.positions, depth)
            query, key = rotate(query, angles), rotate(key, angles)
        offset, window, mask = places.offset, self.window, None
        queries, keys = indices(places, x.shape[1], x.shape[1])
        if places.room is not None:
            cache = new_cache(
                key, value, places.room, places.lengths, self.window, self.sink_tokens
            )
        elif cache is not None:
            cache = written(cache, key, value, offset)
            key, value = cache.key.read(self.dtype), cache.value.read(self.dtype)
            keys = slot_positions(cache, offset + x.shape[1])
            if window is not None and cache.ring is not None:
                mask = seen_in_ring(keys, queries, window, self.sink_tokens)
        ringed = mask is not None
        dropout = 0.0 if deterministic else self.dropout
        out = attention(
            query,
            key,
            value,
            # The mask of a ring says all of this by itself.
            causal=self.causal and not ringed,
            window=None if ringed else window,
            sink_tokens=self.sink_tokens,
            offset=0 if offset is None else offset,
            mask=mask,
            segments=None if places.segments is None else (places.segments, places.segments),
            scale=self.scale,
            soft_cap=self.soft_cap,
            bias=self._bias(places, queries, keys),
            sinks=self._sinks(),
            dropout=dropout,
            dropout_key=self.make_rng("dropout") if dropout > 0 else None,
            implementation=self.implementation,
        )
        output_bias = self.bias if self.output_bias is None else self.output_bias
        return _map_out(self, x.shape[-1], output_bias, out), cache

    def _bias(
        self,
        places: Places,
        queries: Int[Array, "rows time"],
        keys: Int[Array, "places positions"],
    ) -> Array | None:
        bias = places.bias
        if self.position_bias is not None:
            own = self.position_bias(queries, keys, self.heads)
            bias = own if bias is None else bias + own
        return bias

    def _sinks(self) -> Array | None:
        if not self.sinks:
            return None
        named = nn.with_logical_partitioning(nn.initializers.zeros, ("heads",))
        sinks: Any = self.param("sinks", named, (self.heads,), jnp.float32)
        return sinks

    def _projected(self, x: Hidden, groups: int, depth: int) -> tuple[Array, Array, Array]:
        batch, time, width = x.shape
        names = ("embed", "heads", "head_dim")
        of_queries = self.query_initializer or self.initializer
        layers = [
            linear.Linear((heads, depth), names, 1, self.bias, initializer, self.dtype, name=name)
            for name, heads, initializer in (
                ("query", self.heads, of_queries),
                ("key", groups, self.initializer),
                ("value", groups, self.initializer),
            )
        ]
        kernels, biases = zip(*(layer.weights((width,)) for layer in layers), strict=True)
        # One wide product is faster than three. Each group's columns lie together, so that
        # splitting groups over devices still splits this product.
        kernel = jnp.concatenate([k.reshape(width, groups, -1) for k in kernels], axis=2)
        y = linear.product(x.astype(self.dtype).reshape(-1, width), kernel.reshape(width, -1))
        y = y.reshape(batch, time, groups, -1)
        if self.bias:
            bias = jnp.concatenate([b.reshape(1, 1, groups, -1) for b in biases], axis=3)
            y = y + bias
        query, key, value = jnp.split(y, [y.shape[-1] - 2 * depth, y.shape[-1] - depth], axis=3)
        query = query.reshape(batch, time, self.heads, depth)
        # Low-rank adapters, where there are any, are small products of their own.
        query, key, value = (
            made if (adapted := layer.adaptation(x)) is None else made + adapted
            for layer, made in zip(layers, (query, key, value), strict=True)
        )
        return named(query, QUERY), named(key, KEY), named(value, VALUE)


class CrossAttention(nn.Module):
    """Attention of one text's positions to another's: the fields are those of `SelfAttention`."""

    heads: int
    depth: int | None = None
    bias: bool = True
    query_key_norm: Callable[..., nn.Module] | None = None
    scale: float | None = None
    dropout: float = 0.0
    initializer: Any = nn.initializers.normal(0.02)
    query_initializer: Any = None
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        places: Places,
        cache: KeyValueCache | None = None,
        deterministic: bool = True,
    ) -> tuple[Hidden, KeyValueCache | None]:
        """Lets each position look at `places.memory`, or at what `cache` kept of it.

        With `places.room`, the memory's keys and values are returned, to be kept.
        """
        depth = self.depth or _depth(x.shape[-1], self.heads)
        check_divides(self.heads, "heads", "attention heads")
        names = ("embed", "heads", "head_dim")

        def map_in(name: str, vectors: Array, initializer: Any = self.initializer) -> Array:
            outputs = (self.heads, depth)
            layer = linear.Linear(outputs, names, 1, self.bias, initializer, self.dtype, name=name)
            return layer(vectors)

        def normal(name: str, x: Array) -> Array:
            return x if self.query_key_norm is None else self.query_key_norm(name=name)(x)

        query = map_in("query", x, self.query_initializer or self.initializer)
        query = normal("query_norm", named(query, QUERY))
        if cache is None:
            key, value = map_in("key", places.memory), map_in("value", places.memory)
            key, value = normal("key_norm", named(key, KEY)), named(value, VALUE)
            if places.room is not None:
                sources = replace(places.room, capacity=key.shape[1])
                cache = new_cache(key, value, sources, None, None, 0)
        else:
            key, value = cache.key.read(self.dtype), cache.value.read(self.dtype)
        dropout = 0.0 if deterministic else self.dropout
        dropout_key = self.make_rng("dropout") if dropout > 0 else None
        out = attention(
            query, key, value, segments=places.memory_segments, scale=self.scale, dropout=dropout,
            dropout_key=dropout_key,
        )  # fmt: skip
        return _map_out(self, x.shape[-1], self.bias, out), cache


def indices(
    places: Places, time: int, positions: int
) -> tuple[Int[Array, "rows time"], Int[Array, "1 positions"]]:
    """Where queries and keys stand among the keys, whatever text they belong to."""
    offset = jnp.reshape(jnp.asarray(0 if places.offset is None else places.offset), (-1, 1))
    return offset + jnp.arange(time)[None, :], jnp.arange(positions)[None, :]


def _map_out(module: SelfAttention | CrossAttention, width: int, bias: bool, x: Array) -> Array:
    names, dtype = ("heads", "head_dim", "embed"), module.dtype
    layer = linear.Linear((width,), names, 2, bias, module.output_initializer, dtype, name="out")
    return layer(named(x, ATTENTION))


def _depth(width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise UserError(
            f"{heads} heads don't divide a width of {width}: take another number of heads, or give "
            "their depth."
        )
    return width // heads
