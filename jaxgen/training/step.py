"""The train step: a sequence of updates, each differentiating only what it moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Context, Key, Output, Params, Update
from jaxgen.training.accumulation import mean_gradient
from jaxgen.training.moved import merge, split
from jaxgen.training.state import TrainState, averaged

Metrics = dict[str, Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics, Any]]

# Up to so many repeats are compiled one after the other, more of them as a loop.
WRITTEN_OUT = 8


def make_train_step(updates: Sequence[Update], key: Key, axes: tuple[str, ...] = ()) -> TrainStep:
    """The pure function from a state and a step's batch to the next state.

    The batch's leaves are (repeats, rows, ...): `repeats` is the largest of the updates', and an
    update with fewer uses the first. Random keys are folded from `key`, the step, the update, the
    repeat and the micro-batch, so nothing random is ever stored.

    axes: inside `pmap`, its axes: each device has rows of its own there, and whatever is worked
        out from them is joined over all devices, so that each moves its copy of the state alike.

    Returns the state, the metrics ("update/metric") and whether every loss and gradient of the
    step was finite.

    Raises:
        UserError: if two updates share a name.
    """
    names = [update.name for update in updates]
    if len(set(names)) != len(names) or not names:
        raise UserError(f"A train step needs updates with different names, not {names}.")

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Any]:
        step_key = jax.random.fold_in(key, state.step)
        metrics: Metrics = {}
        finite = jnp.array(True)
        for index, update in enumerate(updates):
            update_key = jax.random.fold_in(step_key, index)
            state, measured = _scheduled(update, state, batch, update_key, axes)
            for name, value in measured.items():
                metrics[f"{update.name}/{name}"] = value
            finite &= jnp.isfinite(measured["loss"]) & jnp.isfinite(measured["gradient_norm"])
        return dataclasses.replace(state, step=state.step + 1), metrics, finite

    return train_step


def reported(updates: Sequence[Update], metrics: Metrics, step: int) -> Metrics:
    """The metrics of the updates that ran in step `step` (counted from 0), by their `every`."""
    ran = {update.name for update in updates if (step + 1) % update.every == 0}
    return {name: value for name, value in metrics.items() if name.split("/")[0] in ran}


def _scheduled(
    update: Update, state: TrainState, batch: Batch, key: Key, axes: tuple[str, ...]
) -> tuple[TrainState, Metrics]:
    def run(state: TrainState) -> tuple[TrainState, Metrics]:
        return _repeated(update, state, batch, key, axes)

    if update.every == 1:
        return run(state)

    def skip(state: TrainState) -> tuple[TrainState, Metrics]:
        _, measured = jax.eval_shape(run, state)
        return state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), measured)

    return jax.lax.cond((state.step + 1) % update.every == 0, run, skip, state)


def _repeated(
    update: Update, state: TrainState, batch: Batch, key: Key, axes: tuple[str, ...]
) -> tuple[TrainState, Metrics]:
    def once(state: TrainState, repeat_and_rows: tuple[Any, Batch]) -> tuple[TrainState, Metrics]:
        repeat, rows = repeat_and_rows
        count = state.step // update.every * update.repeats + repeat
        return _updated(update, state, rows, count, jax.random.fold_in(key, repeat), axes)

    if update.repeats == 1:
        return once(state, (0, jax.tree.map(lambda leaf: leaf[0], batch)))
    fresh = jax.tree.map(lambda leaf: leaf[: update.repeats], batch)
    # XLA's convolutions are ten times slower on CPUs inside a loop; few repeats are written out.
    unroll = update.repeats if update.repeats <= WRITTEN_OUT else 1
    numbers = jnp.arange(update.repeats)
    state, measured = jax.lax.scan(once, state, (numbers, fresh), unroll=unroll)
    return state, jax.tree.map(lambda leaf: leaf.mean(0), measured)


def _updated(
    update: Update, state: TrainState, batch: Batch, count: Any, key: Key, axes: tuple[str, ...]
) -> tuple[TrainState, Metrics]:
    """Moves the update's part once; `count` of this update's updates came before."""
    moved, _ = split(state.params, update.moves)

    # A function of all that it sees: shard_map takes no array that another mesh's trace made.
    def differentiated(
        moved: Params, state: TrainState, batch: Batch, key: Key
    ) -> tuple[Any, Output]:
        variables = state.variables
        context = Context(
            batch=batch, key=key, step=state.step, variables=variables, ema=averaged(state)
        )
        output = update.loss(merge(moved, state.params), context)
        if output.variables is None:
            output = dataclasses.replace(output, variables=variables)
        chex.assert_trees_all_equal_structs(output.variables, variables)
        chex.assert_trees_all_equal_shapes_and_dtypes(output.variables, variables)
        chex.assert_shape((output.value, output.weight, *output.metrics.values()), ())
        return output.value, output

    gradient, output = mean_gradient(
        jax.grad(differentiated, has_aux=True), update, moved, state, batch, key, axes
    )
    moves, optimizer_state = update.optimizer.update(
        gradient, state.optimizer_states[update.name], moved
    )
    moved = optax.apply_updates(moved, moves)
    averages = state.ema
    if update.ema is not None:
        decay = update.ema(count) if callable(update.ema) else _warmed_up(update.ema, count)
        averages = averages | {
            update.name: optax.incremental_update(moved, averages[update.name], 1.0 - decay)
        }
    state = dataclasses.replace(
        state,
        params=merge(moved, state.params),
        variables=output.variables,
        optimizer_states=state.optimizer_states | {update.name: optimizer_state},
        ema=averages,
    )
    measured = {"loss": output.value, "gradient_norm": optax.tree.norm(gradient)}
    return state, measured | output.metrics


def _warmed_up(decay: float, count: Any) -> Any:
    """min(decay, (1 + n) / (10 + n)): early averages forget the random start quickly."""
    return jnp.minimum(decay, (1.0 + count) / (10.0 + count))
