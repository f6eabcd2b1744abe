"""The training state: one pytree, created where it will live."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Key, Model, Params, Update, Variables
from jaxgen.parallel import sharding
from jaxgen.parallel.options import USUAL, Parallel
from jaxgen.training.moved import merge, split


@flax.struct.dataclass
class TrainState:
    """Everything that changes while training.

    step: updates sequences done, an int32 scalar.
    params, variables: the whole model.
    optimizer_states: an Optax state for each update, by its name, over the part it moves.
    ema: the moving average of the moved part, for each update that keeps one, by its name.
    """

    step: Any
    params: Any
    variables: Any
    optimizer_states: Any
    ema: Any


def averaged(state: TrainState) -> Params:
    """The parameters, each moving average standing in for the leaves it covers."""
    params = state.params
    for part in state.ema.values():
        params = merge(part, params)
    return params


def model(state: TrainState, ema: bool = True) -> Model:
    """What samplers and evaluations see of a state."""
    return Model(params=averaged(state) if ema else state.params, variables=state.variables)


def random_keys(seed: int) -> tuple[Key, Key, Key]:
    """Three streams from one seed: initialization, training, evaluation and previews."""
    initialization, training, evaluation = jax.random.split(jax.random.key(seed), 3)
    return initialization, training, evaluation


def initializer(
    init: Callable[[Key, Batch], tuple[Params, Variables]],
    updates: Sequence[Update],
    mesh: Mesh,
    pretrained: Callable[[Params], Params] | None = None,
    parallel: Parallel = USUAL,
) -> Callable[[Key, Mapping[str, Any]], tuple[Callable[[], TrainState], TrainState]]:
    """Prepares the creation of a state that is sharded from its first moment.

    pretrained: as in `Experiment`.
    parallel: may put the optimizer's state elsewhere than the parameters; checks nothing.

    Returns a function of the key and one batch that gives `create`, which makes the state, and
    the abstract state, whose leaves know shape, dtype and sharding; for it, the batch's shapes
    will do. No leaf ever exists whole on one device: shapes come from `eval_shape`, values from
    `jit` with `out_shardings`.
    """

    def unsharded(key: Key, batch: Batch) -> TrainState:
        boxed_params, boxed_variables = init(key, batch)
        params = sharding.unbox(boxed_params)
        moved = {update.name: split(params, update.moves)[0] for update in updates}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            variables=sharding.unbox(boxed_variables),
            optimizer_states={
                update.name: update.optimizer.init(moved[update.name]) for update in updates
            },
            ema={
                # A copy, since params and average are both donated to the train step.
                update.name: jax.tree.map(jnp.copy, moved[update.name])
                for update in updates
                if update.ema is not None
            },
        )

    def prepare(key: Key, batch: Mapping[str, Any]) -> tuple[Callable[[], TrainState], TrainState]:
        boxed_params, boxed_variables = jax.eval_shape(init, key, batch)
        shapes = jax.eval_shape(unsharded, key, batch)
        params = sharding.shardings(boxed_params, mesh)
        places = TrainState(
            step=NamedSharding(mesh, PartitionSpec()),
            params=params,
            variables=sharding.shardings(boxed_variables, mesh),
            optimizer_states=sharding.like_parameters(
                shapes.optimizer_states,
                shapes.params,
                _optimizer_places(shapes.params, params, parallel),
                mesh,
            ),
            ema=sharding.like_parameters(shapes.ema, shapes.params, params, mesh),
        )
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            places,
        )
        create = jax.jit(unsharded, out_shardings=places, compiler_options=_compile_quickly(mesh))
        if pretrained is None:
            return lambda: create(key, batch), abstract
        return lambda: _with_weights(create(key, batch), abstract, updates, pretrained), abstract

    return prepare


def _optimizer_places(shapes: Params, params: Any, parallel: Parallel) -> Any:
    """Where the optimizer keeps what is like a parameter, from where that parameter lies."""

    def place(leaf: Any, own: NamedSharding) -> NamedSharding:
        if parallel.shard_optimizer:
            own = sharding.split_further(own, leaf.shape)
        return own.with_memory_kind("pinned_host") if parallel.offload_optimizer else own

    return jax.tree.map(place, shapes, params)


def _with_weights(
    state: TrainState,
    abstract: TrainState,
    updates: Sequence[Update],
    pretrained: Callable[[Params], Params],
) -> TrainState:
    """The state with what `pretrained` gives in place of its own parameters, averages included.

    Raises:
        UserError: for weights that the model has no place for, or of another shape.
    """
    given = traverse_util.flatten_dict(pretrained(abstract.params))
    known = traverse_util.flatten_dict(abstract.params)
    for path, leaf in given.items():
        expected = known[path].shape if path in known else None
        if leaf.shape != expected:
            raise UserError(
                f"The pretrained weight {'/'.join(path)} {leaf.shape} doesn't fit the model, which "
                f"has {'no such parameter' if expected is None else expected}: it is of another "
                "network."
            )
    # Copied: the state is donated to the train step, and the weights may be somebody else's.
    placed = {
        path: jax.device_put(jnp.array(leaf, known[path].dtype, copy=True), known[path].sharding)
        for path, leaf in given.items()
    }
    params = merge(traverse_util.unflatten_dict(placed), state.params)
    ema = {
        update.name: jax.tree.map(jnp.copy, split(params, update.moves)[0])
        for update in updates
        if update.ema is not None
    }

    def prepared(params: Params) -> Any:
        # Some optimizers keep a copy of what they move.
        return {
            update.name: update.optimizer.init(split(params, update.moves)[0]) for update in updates
        }

    places = jax.tree.map(lambda leaf: leaf.sharding, abstract.optimizer_states)
    states = jax.jit(prepared, out_shardings=places)(params)
    return dataclasses.replace(state, params=params, ema=ema, optimizer_states=states)


def _compile_quickly(mesh: Mesh) -> dict[str, Any]:
    """Compiler options for what runs once: on CPUs, optimizing it costs more than it saves.

    Random draws are long straight code, one for each parameter, which LLVM takes seconds over. At
    level 1 the numbers are the same, bit by bit; at level 0 they differ in the last places.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_backend_optimization_level": 1} if on_cpu else {}
