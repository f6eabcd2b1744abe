"""One `attention()` for every network; it picks the fastest implementation of the platform.

Scaled dot-product attention (Vaswani et al. 2017, eq. 1), with grouped key and value heads
(Ainslie et al. 2023). The implementations are functions of one signature; pass another one to
override the choice.
"""

from __future__ import annotations

import dataclasses
import logging
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import UserError
from jaxgen.nn.attention_blocks import HIDDEN
from jaxgen.nn.attention_kernels import (
    cudnn_attention,
    cudnn_refuses,
    platform_in_use,
    splash_attention,
    splash_refuses,
)
from jaxgen.nn.ring_attention import ring_attention, ring_refuses
from jaxgen.nn.visibility import (
    Implementation,
    Keys,
    Query,
    Result,
    Scoring,
    Segments,
    Values,
    Visibility,
    visible,
)

log = logging.getLogger("jaxgen")

__all__ = ["attention", "cudnn_attention", "ring_attention", "splash_attention", "xla_attention"]


def attention(
    query: Query,
    key: Keys,
    value: Values,
    *,
    causal: bool = False,
    window: int | None = None,
    sink_tokens: int = 0,
    offset: int | Int[Array, ""] | Int[Array, "batch"] = 0,
    mask: Bool[Array, "rows planes time positions"] | None = None,
    segments: Segments | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    bias: Float[Array, "rows heads time positions"] | None = None,
    sinks: Float[Array, "heads"] | None = None,
    dropout: float = 0.0,
    dropout_key: Array | None = None,
    implementation: Implementation | None = None,
) -> Result:
    """Softmax attention, in float32 inside whatever the dtype of its arguments.

    `heads` must be a multiple of `groups`: consecutive query heads share a key and value head.
    `scale` is 1/√depth unless given. The other arguments are those of `Visibility` and `Scoring`. A
    query that sees nothing gets zeros (by cuDNN, a mean of the values).

    Args:
        implementation: `xla_attention`, `cudnn_attention`, `splash_attention`, `ring_attention` or
            one of your own; None takes the ring where the mesh in use splits sequences and it can,
            else what is fastest on the platform that this is traced for.

    Raises:
        UserError: for heads that the groups don't divide, a window that holds nothing, dropout
            without a key, or a given implementation that can't do what is asked.
    """
    heads, groups = query.shape[2], key.shape[2]
    if heads % groups:
        raise UserError(f"{heads} query heads don't share {groups} key heads evenly.")
    if dropout > 0 and dropout_key is None:
        raise UserError("Attention dropout needs a key: pass dropout_key.")
    if window is not None and window < 1:
        raise UserError(f"An attention window of {window} sees nothing: give at least 1, or None.")
    visibility = Visibility(
        causal, window, sink_tokens, offset, mask, segments, dropout, dropout_key
    )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scoring = Scoring(scale, soft_cap, bias, sinks)
    if implementation is None:
        implementation = _fastest(query, key, visibility, scoring)
    return implementation(query, key, value, visibility, scoring).astype(query.dtype)


def _fastest(query: Query, key: Keys, visibility: Visibility, scoring: Scoring) -> Implementation:
    # Chosen while tracing and not by jax.lax.platform_dependent: differentiating that one keeps
    # every branch's residuals, so a TPU would hold the scores that splash attention is there to
    # avoid.
    refusal = ring_refuses(query, key, visibility, scoring)
    if not refusal:
        return ring_attention
    if _splits_sequences() and 1 < query.shape[1] == key.shape[1]:
        _tell(refusal)
    platform = platform_in_use()
    if platform == "tpu" and not splash_refuses(query, key, visibility, scoring):
        return splash_attention
    if platform in ("gpu", "cuda") and not cudnn_refuses(query, key, visibility, scoring):
        return cudnn_attention
    return xla_attention


def _splits_sequences() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape["sequence"] > 1


@cache
def _tell(refusal: str) -> None:
    log.info("The sequence axis splits no attention here, all keys are gathered: %s", refusal)


def xla_attention(
    query: Query, key: Keys, value: Values, visibility: Visibility, scoring: Scoring
) -> Result:
    """Plain XLA, for any platform, shape and mask; laid out for fast gradients on CPUs."""
    time, positions = query.shape[1], key.shape[1]
    # Queries in the first half of a causal square need no key of the second: a quarter of all
    # scores is never computed. Finer cuts save more arithmetic but lose it in small products.
    halves = (
        visibility.causal
        and visibility.from_the_start
        and visibility.mask is None
        and visibility.segments is None
        and visibility.window is None
        and scoring.bias is None
        and time == positions
        and time >= 128
        and time % 2 == 0
    )
    batch, _, heads, depth = query.shape
    groups = key.shape[2]
    q = query * jnp.asarray(scoring.scale, query.dtype)
    q = q.reshape(batch, time, groups, heads // groups, depth).transpose(0, 2, 3, 1, 4)
    # With positions last, no product turns the scores around, in the gradient neither. A lone
    # query has none to speak of, and its keys come from a cache that is better left in place.
    order = (0, 2, 1, 3) if time == 1 else (0, 2, 3, 1)
    k, v = key.transpose(order), value.transpose(order)
    if halves:
        half = time // 2
        keys = [visibility.dropout_key] * 2
        if visibility.dropout > 0:
            keys = list(jax.random.split(visibility.dropout_key))
        first = dataclasses.replace(visibility, dropout_key=keys[0])
        second = dataclasses.replace(visibility, offset=half, dropout_key=keys[1])
        parts = [
            _xla_block(q[..., :half, :], k[..., :half], v[..., :half], first, scoring),
            _xla_block(q[..., half:, :], k, v, second, scoring),
        ]
        out = jnp.concatenate(parts, axis=2)
    else:
        out = _xla_block(q, k, v, visibility, scoring)
    return out.astype(query.dtype).transpose(0, 2, 1, 3)


def _xla_block(
    query: Float[Array, "batch groups share time depth"],
    key: Float[Array, "batch groups ..."],
    value: Float[Array, "batch groups ..."],
    visibility: Visibility,
    scoring: Scoring,
) -> Float[Array, "batch heads time value_depth"]:
    batch, groups, share, time, depth = query.shape
    heads = groups * share
    layout, positions = ("nsd", key.shape[2]) if time == 1 else ("nds", key.shape[3])
    # Batch and heads as one leading axis makes every product a plain batched matrix product,
    # here and in the gradient; query heads that share a key head are more rows of one product.
    q = query.reshape(batch * groups, share * time, depth)
    k, v = (x.reshape(batch * groups, *x.shape[2:]) for x in (key, value))

    scores = jnp.einsum(f"ntd,{layout}->nts", q, k, preferred_element_type=jnp.float32)
    shape = (batch, heads, time, positions)
    if scoring.soft_cap is not None:
        scores = scoring.soft_cap * jnp.tanh(scores / scoring.soft_cap)
    if scoring.bias is not None:
        scores = (scores.reshape(shape) + scoring.bias.astype(jnp.float32)).reshape(scores.shape)
    mask = visible(visibility, time, positions)
    if mask is not None:
        scores = jnp.where(mask, scores.reshape(shape), HIDDEN).reshape(scores.shape)
    highest = scores.max(-1, keepdims=True)
    sinks = None
    if scoring.sinks is not None:
        sinks = jnp.broadcast_to(
            scoring.sinks.astype(jnp.float32)[None, :, None, None], (batch, heads, time, 1)
        ).reshape(highest.shape)
        highest = jnp.maximum(highest, sinks)
    # Where all is hidden this makes every weight exp(-5e29) = 0, not exp(0).
    highest = jnp.maximum(jax.lax.stop_gradient(highest), HIDDEN / 2)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + jnp.exp(sinks - highest)
    if visibility.dropout > 0:
        keep = jax.random.bernoulli(visibility.dropout_key, 1 - visibility.dropout, weights.shape)
        weights = jnp.where(keep, weights / (1 - visibility.dropout), 0)
    weights = weights.astype(v.dtype)
    out = jnp.einsum(f"nts,{layout}->ntd", weights, v, preferred_element_type=jnp.float32)
    # Dividing (time, depth) numbers after the product, not (time, positions) before it, halves
    # the gradient's time on a CPU.
    out = out / jnp.where(total == 0, 1, total)
    return out.reshape(batch, heads, time, -1)
