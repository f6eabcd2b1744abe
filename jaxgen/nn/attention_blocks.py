"""Attention between one stretch of queries and one of keys, in parts that can be put together.

Flash attention (Dao et al. 2022) rests on this: a softmax over all keys is a weighted mean of the
softmaxes over parts of them, if each part also says how much weight it has. So no one ever needs
to hold all scores; ring attention doesn't even hold all keys on one device.

Everything here has heads before time, and queries come scaled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.nn.visibility import Visibility, visible

Queries = Float[Array, "batch heads time depth"]
BlockKeys = Float[Array, "batch groups positions depth"]
BlockValues = Float[Array, "batch groups positions value_depth"]
Outputs = Float[Array, "batch heads time value_depth"]

# Far below any score, yet its difference from half of itself is finite.
HIDDEN = -1e30


class Part(NamedTuple):
    """Attention to some of the keys.

    out: the mean of their values, each weighted by exp(score); zero where no key is visible.
    logsumexp: the logarithm of the sum of these weights; `HIDDEN` where no key is visible.
    """

    out: Outputs
    logsumexp: Float[Array, "batch heads time"]


Gradients = tuple[Queries, BlockKeys, BlockValues]


@dataclasses.dataclass(frozen=True)
class BlockAttention:
    """How attention between a stretch of queries and one of keys is worked out.

    forward: (query, key, value, visibility, soft_cap) -> what these keys alone give. The visibility
        has no mask and no dropout; its offset is how many places the first query stands after the
        first key, known while tracing.
    backward: (query, key, value, visibility, soft_cap, part, out's gradient) -> the gradients of
        query, key and value through these keys, where `part` is attention to all keys, of which
        these may be a few.
    """

    forward: Callable[[Queries, BlockKeys, BlockValues, Visibility, float | None], Part]
    backward: Callable[
        [Queries, BlockKeys, BlockValues, Visibility, float | None, Part, Outputs], Gradients
    ]


def nothing(query: Queries, value: BlockValues) -> Part:
    """Attention to no key at all."""
    out = jnp.zeros_like(query, jnp.float32, (*query.shape[:3], value.shape[-1]))
    return Part(out, jnp.full_like(query, HIDDEN, jnp.float32, query.shape[:3]))


def together(one: Part, other: Part) -> Part:
    """Attention to the keys of both parts, which share none."""
    logsumexp = jnp.logaddexp(one.logsumexp, other.logsumexp)
    weights = [jnp.exp(part.logsumexp - logsumexp)[..., None] for part in (one, other)]
    return Part(one.out * weights[0] + other.out * weights[1], logsumexp)


def _xla_forward(
    query: Queries,
    key: BlockKeys,
    value: BlockValues,
    visibility: Visibility,
    soft_cap: float | None,
) -> Part:
    blocks = _key_blocks(key, value, visibility)

    def attend(part: Part, block: _KeyBlock) -> tuple[Part, None]:
        scores, mask = _scores(query, block, soft_cap)
        if mask is not None:
            scores = jnp.where(mask, scores, HIDDEN)
        # Where all is hidden this makes every weight exp(-5e29) = 0, not exp(0).
        highest = jnp.maximum(scores.max(-1), HIDDEN / 2)
        weights = jnp.exp(scores - highest[..., None])
        total = weights.sum(-1)
        rows = _rows(weights.astype(value.dtype), block.key.shape[1])
        out = jnp.einsum(
            "ntp,npd->ntd", rows, _joined(block.value), preferred_element_type=jnp.float32
        )
        out = out.reshape(*query.shape[:3], -1) / jnp.where(total == 0, 1, total)[..., None]
        one = Part(out, jnp.maximum(highest + jnp.log(total), HIDDEN))
        return together(part, one), None

    part, _ = jax.lax.scan(attend, nothing(query, value), blocks)
    return part


def _xla_backward(
    query: Queries,
    key: BlockKeys,
    value: BlockValues,
    visibility: Visibility,
    soft_cap: float | None,
    part: Part,
    gradient: Outputs,
) -> Gradients:
    groups = key.shape[1]
    # Dao et al. 2022, appendix B.2: D, the mean over the keys of a weight's gradient.
    mean = jnp.sum(gradient.astype(jnp.float32) * part.out.astype(jnp.float32), -1)

    def attend(of_query: Array, block: _KeyBlock) -> tuple[Array, tuple[Array, Array]]:
        scores, mask = _scores(query, block, soft_cap)
        weights = jnp.exp(scores - part.logsumexp[..., None])
        if mask is not None:
            weights = jnp.where(mask, weights, 0)
        rows = _rows(gradient.astype(value.dtype), groups)
        of_weights = jnp.einsum(
            "ntd,npd->ntp", rows, _joined(block.value), preferred_element_type=jnp.float32
        ).reshape(scores.shape)
        of_scores = weights * (of_weights - mean[..., None])
        if soft_cap is not None:
            of_scores = of_scores * (1 - jnp.square(scores / soft_cap))
        weights, of_scores = (_rows(x.astype(key.dtype), groups) for x in (weights, of_scores))
        of_query = of_query + jnp.einsum(
            "ntp,npd->ntd", of_scores, _joined(block.key), preferred_element_type=jnp.float32
        ).reshape(of_query.shape)
        of_key = jnp.einsum(
            "ntp,ntd->npd", of_scores, _rows(query, groups), preferred_element_type=jnp.float32
        )
        of_value = jnp.einsum("ntp,ntd->npd", weights, rows, preferred_element_type=jnp.float32)
        return of_query, (of_key.reshape(block.key.shape), of_value.reshape(block.value.shape))

    of_query, (of_key, of_value) = jax.lax.scan(
        attend, jnp.zeros_like(query, jnp.float32), _key_blocks(key, value, visibility)
    )
    # (blocks, batch, groups, block, depth) back to (batch, groups, positions, depth).
    of_key, of_value = (
        jnp.moveaxis(x, 0, 2).reshape(like.shape) for x, like in ((of_key, key), (of_value, value))
    )
    return of_query, of_key, of_value


# For any platform; the scores of a block of keys exist at a time.
xla_blocks = BlockAttention(_xla_forward, _xla_backward)


class _KeyBlock(NamedTuple):
    key: BlockKeys
    value: BlockValues
    visibility: Visibility


def _key_blocks(key: BlockKeys, value: BlockValues, visibility: Visibility) -> _KeyBlock:
    """The keys in blocks, stacked along a new first axis, and what is visible of each."""
    positions = key.shape[2]
    size = next((size for size in (1024, 512, 256, 128) if positions % size == 0), positions)
    count = positions // size

    def split(x: Array, axis: int) -> Array:
        shape = (*x.shape[:axis], count, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    segments = visibility.segments
    if segments is not None:
        of_query, of_key = segments
        segments = (jnp.broadcast_to(of_query, (count, *of_query.shape)), split(of_key, 1))
    offset = visibility.offset - size * jnp.arange(count)
    seen = dataclasses.replace(visibility, offset=offset, segments=segments)
    return _KeyBlock(split(key, 2), split(value, 2), seen)


def _scores(
    query: Queries, block: _KeyBlock, soft_cap: float | None
) -> tuple[
    Float[Array, "batch heads time positions"], Bool[Array, "rows planes time positions"] | None
]:
    """The scores of a block's keys, hidden or not, and which aren't hidden."""
    batch, heads, time, _ = query.shape
    groups, positions = block.key.shape[1:3]
    scores = jnp.einsum(
        "ntd,npd->ntp",
        _rows(query, groups),
        _joined(block.key),
        preferred_element_type=jnp.float32,
    ).reshape(batch, heads, time, positions)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    return scores, visible(block.visibility, time, positions)


def _joined(x: Float[Array, "batch groups positions depth"]) -> Float[Array, "n positions depth"]:
    # Batch and heads as one leading axis makes every product a plain batched matrix product.
    return x.reshape(-1, *x.shape[2:])


def _rows(x: Float[Array, "batch heads time any"], groups: int) -> Float[Array, "n rows any"]:
    # Query heads that share a key head are more rows of one product.
    batch, heads, time, width = x.shape
    return x.reshape(batch * groups, heads // groups * time, width)
