"""The blocks that every transformer is a stack of, and the scan that stacks them.

What a block is made of is given as functions that make its layers: `partial(SelfAttention,
heads=6)`, `partial(MLP, hidden=1536)`, `LayerNorm`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, partial
from operator import itemgetter
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.core import Scope
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Params
from jaxgen.nn.places import Places
from jaxgen.nn.saved_tensors import BLOCK_INPUT, RESIDUAL, Policy, named
from jaxgen.parallel.layout import current_layout
from jaxgen.parallel.pipeline import Schedule, Turn, all_but_moved, pipelined, schedule, stages_of
from jaxgen.parallel.sharding import constrained, shards_parameters

log = logging.getLogger("jaxgen")

Hidden = Float[Array, "batch time width"]
Layer = Callable[[Hidden], Hidden]
Maker = Callable[..., nn.Module]


@flax.struct.dataclass
class BlockCache:
    """What a block with cross-attention keeps: its own keys and values, and the memory's."""

    own: Any
    memory: Any


# What becomes of x: (layer, norm, drop, x) -> x.
Order = Callable[[Layer, Layer, Layer, Hidden], Hidden]


def pre_norm(layer: Layer, norm: Layer, drop: Layer, x: Hidden) -> Hidden:
    """x + layer(norm(x)) (Xiong et al. 2020): a stack of these ends with one more norm."""
    return x + drop(layer(norm(x)))


def post_norm(layer: Layer, norm: Layer, drop: Layer, x: Hidden) -> Hidden:
    """norm(x + layer(x)): the first transformer's (Vaswani et al. 2017, section 3.1) and BERT's."""
    return norm(x + drop(layer(x)))


class Block(nn.Module):
    """Attention, then a position-wise network, each added to its input.

    attention, mlp, norm: make the layers, called with `name`.
    order: `pre_norm` or `post_norm`.
    cross_attention: makes a look at the memory between the two, or None.
    dropout: on what each layer adds.
    """

    attention: Maker
    mlp: Maker
    norm: Maker
    order: Order = pre_norm
    cross_attention: Maker | None = None
    dropout: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Hidden, cache: Any, places: Places) -> tuple[Hidden, Any]:
        """The next hidden vectors, and the cache with those of `x` written in."""
        kept = {}

        def sublayer(name: str, layer: Layer, x: Hidden) -> Hidden:
            drop = nn.Dropout(self.dropout, deterministic=self.deterministic)
            return self.order(layer, self.norm(name=f"{name}_norm"), drop, x)

        def attend(name: str, maker: Maker, cache: Any) -> Layer:
            def layer(x: Hidden) -> Hidden:
                out, kept[name] = maker(name=name)(x, places, cache, self.deterministic)
                return out

            return layer

        across = self.cross_attention
        own, of_memory = cache, None
        if across is not None and cache is not None:
            own, of_memory = cache.own, cache.memory
        x = named(constrained(x, ("batch", "time", None)), BLOCK_INPUT)
        x = sublayer("attention", attend("attention", self.attention, own), x)
        x = named(x, RESIDUAL)
        if across is not None:
            x = sublayer("cross_attention", attend("cross_attention", across, of_memory), x)
            x = named(x, RESIDUAL)
        mlp = self.mlp(name="mlp")
        x = sublayer("mlp", lambda x: mlp(x, places.real, self.deterministic), x)
        if across is None or kept["attention"] is None:
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


class Stack(nn.Module):
    """Layers of one make, with parameters and caches that are stacked along a first axis.

    Scanned, or on a mesh with several stages a pipeline: see `stacked`.

    layer: makes one, a `Block` or a `Period`.
    length: how many there are; turns of several kinds count as one.
    unroll, remat: as in `stacked`.
    """

    layer: partial[Any]
    length: int
    unroll: int = 1
    remat: bool | Policy = False

    def setup(self) -> None:
        """The scan, whose parameters are this module's own."""
        kind = self.layer.func
        remat = self.remat or (all_but_moved if shards_parameters() else False)
        policy = None if isinstance(remat, bool) else remat
        scan = nn.scan(
            # prevent_cse guards against what cannot happen inside a scan, and costs speed there.
            nn.remat(kind, prevent_cse=False, policy=policy) if remat else kind,
            variable_axes={"params": 0, "router": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            out_axes=0,
            length=self.length,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        self._scan = scan(**self.layer.keywords)
        nn.share_scope(self, self._scan)

    def __call__(self, x: Hidden, cache: Any, places: Places) -> tuple[Hidden, Any]:
        """The last layer's vectors, and all layers' caches."""
        mesh = jax.sharding.get_abstract_mesh()
        cached = cache is not None or places.room is not None
        if cached or self.is_initializing() or stages_of(mesh) == 1:
            out: tuple[Hidden, Any] = self._scan(x, cache, places)
            return out
        plan = schedule(self.length, len(x), mesh, current_layout().pipeline)
        _tell(plan)
        return self._pipelined(x, places, plan), None

    def _pipelined(self, x: Hidden, places: Places, plan: Schedule) -> Hidden:
        key = self.make_rng("dropout") if self.has_rng("dropout") else None

        def stage(parameters: Params, x: Hidden, places: Places, turn: Turn) -> tuple[Hidden, Any]:
            def layer(x: Hidden, number_and_own: tuple[Array, Params]) -> tuple[Hidden, Any]:
                number, own = number_and_own
                rngs = {}
                if key is not None:
                    own_key = jax.random.fold_in(key, number)
                    rngs["dropout"] = jax.random.fold_in(own_key, turn.microbatch)
                # With this module's path, by which `quantized.py` finds layers.
                scope = Scope({"params": own}, rngs, mutable=["router"], path=self.path)
                with scope.temporary() as of_layer:
                    x, _ = self.layer(parent=of_layer)(x, None, places)
                return x, scope.mutable_variables().get("router", {})

            numbers = turn.first_layer + jnp.arange(len(jax.tree.leaves(parameters)[0]))
            unroll = min(self.unroll, len(numbers))
            return jax.lax.scan(layer, x, (numbers, parameters), unroll=unroll)

        x, sown = pipelined(stage, self.variables["params"], x, places, plan, self.remat)
        if self.is_mutable_collection("router"):
            for name, reports in sown.items():
                self.put_variable("router", name, reports)
        return x


@cache
def _tell(plan: Schedule) -> None:
    log.info(
        "Pipeline of %d stages, %d microbatches and %d rounds: %.0f %% of its ticks are bubble.",
        plan.stages,
        plan.microbatches,
        plan.rounds,
        100 * plan.bubble,
    )


def stacked(
    layers: int,
    attention: Maker | tuple[Maker, ...],
    mlp: Maker | tuple[Maker, ...],
    norm: Maker,
    *,
    initializer: Any,
    output_initializer: Any,
    dtype: Any,
    order: Order = pre_norm,
    cross_attention: Maker | None = None,
    dropout: float = 0.0,
    deterministic: bool = True,
    unroll: int = 1,
    remat: bool | Policy = False,
    scanned: bool = True,
) -> nn.Module:
    """So many blocks scanned one after the other, as a module named "blocks".

    Called `(x, cache, places) -> (x, cache)`; parameters and caches are stacked along a first axis.
    Inside `jax.set_mesh` of a mesh with several stages, a call that neither reads a cache nor makes
    one runs as a pipeline, by the layout in use: the same numbers, but that dropout draws others,
    and that what mixtures of experts report is the mean of the microbatches' values.

    Args:
        layers: how many blocks, of all kinds.
        attention, mlp: make a block's; a tuple gives each block in turn its own, and the names of
            the parameters then begin with the place in that turn. Called, as `cross_attention`,
            with `initializer`, `output_initializer`, `dtype` and `name`.
        norm, order, cross_attention, dropout, deterministic: as in `Block`.
        unroll: blocks (or turns) an iteration of the scan, with the same parameters. All of them
            compile to the fastest program, fewer compile faster.
        remat: recomputes each block in the backward pass instead of keeping its activations: True
            all of it, a policy what it doesn't keep (see `saved_tensors.py`). A pipeline recomputes
            all of a stage's blocks together, from what the stage was given.
        scanned: False gives each block parameters and a cache of its own, as `unstacked` makes
            them: a step of decoding, which has little else to do, then copies neither.

    Raises:
        UserError: if the turns don't divide the layers; when called, if a pipeline doesn't fit.
    """
    shared = {
        "initializer": initializer,
        "output_initializer": output_initializer,
        "dtype": dtype,
    }
    kinds = [
        [partial(maker, **shared) for maker in (value if isinstance(value, tuple) else (value,))]
        for value in (attention, mlp)
    ]
    period = math.lcm(*map(len, kinds))
    if layers % period:
        raise UserError(f"{layers} layers aren't made of whole turns of {period} kinds of layer.")
    made: tuple[dict[str, Any], ...] = tuple(
        {
            "attention": kinds[0][turn % len(kinds[0])],
            "mlp": kinds[1][turn % len(kinds[1])],
            "norm": norm,
            "order": order,
            "cross_attention": cross_attention and partial(cross_attention, **shared),
            "dropout": dropout,
            "deterministic": deterministic,
        }
        for turn in range(period)
    )
    if not scanned:
        each = tuple(partial(Block, **made[layer % period]) for layer in range(layers))
        return Period(blocks=each, name="blocks")
    layer: partial[Any] = partial(Block, **made[0])
    if period > 1:
        layer = partial(Period, blocks=tuple(partial(Block, **each) for each in made))
    return Stack(layer, layers // period, unroll, remat, name="blocks")


def unstacked(blocks: Params) -> Params:
    """The parameters of a scanned stack, as those of the same stack with `scanned=False`."""
    # Where kinds take turns, each has its place in the turn for a name.
    turns = [blocks[str(turn)] for turn in range(len(blocks))] if "0" in blocks else [blocks]
    rounds = jax.tree.leaves(blocks)[0].shape[0]
    return {
        str(number * len(turns) + place): jax.tree.map(itemgetter(number), turn)
        for number in range(rounds)
        for place, turn in enumerate(turns)
    }
