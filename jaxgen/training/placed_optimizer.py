"""The same optimizer, with its state elsewhere: split over copies of the model, or on the host.

Both wrap an Optax transformation and change only where things lie, never what is computed.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxgen.experiment import Params

Shardings = Any  # a tree of them, like the arrays' own


def split_over_copies(
    optimizer: optax.GradientTransformation, whole: Shardings, shards: Shardings
) -> optax.GradientTransformation:
    """An optimizer each of whose devices works out its own shard of the moves only.

    Copies of the model need the moves of every parameter, but not the moments behind them: with
    gradient and parameters cut into shards, all between them and the moves is a shard, and the
    moves are gathered. This is the first stage of ZeRO (Rajbhandari et al. 2020, section 5.1).

    whole: where the moved parameters lie; shards: where each of their shards does.
    """

    def update(gradient: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        constrain = jax.lax.with_sharding_constraint
        moves, state = optimizer.update(
            constrain(gradient, shards), state, constrain(params, shards)
        )
        return constrain(moves, whole), state

    return optax.GradientTransformation(optimizer.init, update)


def kept_on_host(
    optimizer: optax.GradientTransformation, at_rest: Shardings
) -> optax.GradientTransformation:
    """An optimizer whose state comes to the devices for each update and goes back after it.

    As ZeRO-Offload does (Ren et al. 2021), but that the update itself runs on the devices.

    at_rest: where the state lies between updates, some of it in the host's memory.
    """
    in_use = jax.tree.map(lambda place: place.with_memory_kind("device"), at_rest)

    def update(gradient: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        moves, state = optimizer.update(gradient, jax.device_put(state, in_use), params)
        return moves, jax.device_put(state, at_rest)

    return optax.GradientTransformation(optimizer.init, update)
