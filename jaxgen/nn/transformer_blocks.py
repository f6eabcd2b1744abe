"""The blocks that every transformer is a stack of, and the scan that stacks them.

What a block is made of is given as functions that make its layers: `partial(SelfAttention,
heads=6)`, `partial(MLP, hidden=1536)`, `LayerNorm`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.self_attention import Places

Hidden = Float[Array, "batch time width"]
Maker = Callable[..., nn.Module]


@flax.struct.dataclass
class BlockCache:
    """What a block with cross-attention keeps: its own keys and values, and the memory's."""

    own: Any
    memory: Any


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020).

    attention, mlp, norm: make the layers, called with `name`.
    cross_attention: makes a look at the memory between the two, or None.
    dropout: on what each layer adds.
    """

    attention: Maker
    mlp: Maker
    norm: Maker
    cross_attention: Maker | None = None
    dropout: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Hidden, cache: Any, places: Places) -> tuple[Hidden, Any]:
        """The next hidden vectors, and the cache with those of `x` written in."""

        def residual(name: str, layer: Callable[[Hidden], Hidden]) -> Callable[[Hidden], Hidden]:
            drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
            return lambda x: x + drop(layer(self.norm(name=f"{name}_norm")(x)))

        return _sublayers(self, residual, x, cache, places)


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)): the order of the first transformer.

    Vaswani et al. 2017, section 3.1, and BERT's. The fields are those of `PreNormBlock`.
    """

    attention: Maker
    mlp: Maker
    norm: Maker
    cross_attention: Maker | None = None
    dropout: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Hidden, cache: Any, places: Places) -> tuple[Hidden, Any]:
        """The next hidden vectors, and the cache with those of `x` written in."""

        def residual(name: str, layer: Callable[[Hidden], Hidden]) -> Callable[[Hidden], Hidden]:
            drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
            return lambda x: self.norm(name=f"{name}_norm")(x + drop(layer(x)))

        return _sublayers(self, residual, x, cache, places)


Block = PreNormBlock | PostNormBlock


def _sublayers(
    block: Block, residual: Callable[..., Any], x: Hidden, cache: Any, places: Places
) -> tuple[Hidden, Any]:
    kept = {}

    def attend(name: str, maker: Maker, cache: Any) -> Callable[[Hidden], Hidden]:
        def layer(x: Hidden) -> Hidden:
            out, kept[name] = maker(name=name)(x, places, cache, block.deterministic)
            return out

        return layer

    both = block.cross_attention is not None and cache is not None
    own, of_memory = (cache.own, cache.memory) if both else (cache, None)
    x = residual("attention", attend("attention", block.attention, own))(x)
    if block.cross_attention is not None:
        across = attend("cross_attention", block.cross_attention, of_memory)
        x = residual("cross_attention", across)(x)
    x = residual("mlp", block.mlp(name="mlp"))(x)
    if block.cross_attention is None or kept["attention"] is None:
        return x, kept["attention"]
    return x, BlockCache(kept["attention"], kept["cross_attention"])


class Period(nn.Module):
    """Blocks of different make, one after the other: what repeats in a stack."""

    blocks: tuple[Callable[..., Block], ...]

    @nn.compact
    def __call__(self, x: Hidden, cache: Any, places: Places) -> tuple[Hidden, Any]:
        """As a block; the caches are a tuple."""
        caches = []
        for index, make in enumerate(self.blocks):
            own = None if cache is None else cache[index]
            x, own = make(name=str(index))(x, own, places)
            caches.append(own)
        return x, tuple(caches)


def kind_of(block: Callable[..., Block]) -> Any:
    """The class that a maker of blocks makes."""
    return block.func if isinstance(block, partial) else block


def stacked(
    layers: int,
    block: Callable[..., Block],
    attention: Maker | tuple[Maker, ...],
    mlp: Maker | tuple[Maker, ...],
    *,
    unroll: int = 1,
    remat: bool = False,
) -> nn.Module:
    """So many blocks scanned one after the other, as a module named "blocks".

    Called `(x, cache, places) -> (x, cache)`; parameters and caches are stacked along a first axis.

    Args:
        layers: how many blocks, of all kinds.
        block: makes one, called with `attention` and `mlp`.
        attention, mlp: make a block's; a tuple gives each block in turn its own, and the names of
            the parameters then begin with the place in that turn.
        unroll: blocks (or turns) an iteration of the scan, with the same parameters. All of them
            compile to the fastest program, fewer compile faster.
        remat: recomputes each block in the backward pass instead of keeping its activations.

    Raises:
        UserError: if the turns don't divide the layers.
    """
    kinds = [value if isinstance(value, tuple) else (value,) for value in (attention, mlp)]
    period = math.lcm(*map(len, kinds))
    if layers % period:
        raise UserError(f"{layers} layers aren't made of whole turns of {period} kinds of layer.")
    made = tuple(
        partial(block, attention=kinds[0][i % len(kinds[0])], mlp=kinds[1][i % len(kinds[1])])
        for i in range(period)
    )

    def rematerialized(kind: Any) -> Any:
        # prevent_cse guards against what cannot happen inside a scan, and costs speed there.
        return nn.remat(kind, prevent_cse=False) if remat else kind

    scanned = nn.scan(
        rematerialized(Period if period > 1 else made[0].func),
        variable_axes={"params": 0, "router": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),
        out_axes=0,
        length=layers // period,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    if period > 1:
        return scanned(blocks=made, name="blocks")
    return scanned(**made[0].keywords, name="blocks")
