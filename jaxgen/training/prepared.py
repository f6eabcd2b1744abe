"""An experiment made ready for a mesh: shapes, places, and the step that will be compiled."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Experiment, Key, Shuffling, Update
from jaxgen.parallel.layout import Layout, axes_of, layout_in_use, with_rules
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.operations import Operations, operations, operations_of
from jaxgen.parallel.options import USUAL, Parallel, check_parallel
from jaxgen.parallel.sharding import COPIES, batch_sharding, local_rows, split_further
from jaxgen.training.moved import split
from jaxgen.training.placed_optimizer import kept_on_host, split_over_copies
from jaxgen.training.pmap_step import make_pmap_step
from jaxgen.training.state import TrainState, initializer, random_keys
from jaxgen.training.step import TrainStep, make_train_step

log = logging.getLogger("jaxgen")


@dataclass(frozen=True)
class Prepared:
    """An experiment made ready for a mesh.

    All of it is to be called within `jax.set_mesh(mesh)` and `layout_in_use(layout)`.

    create: makes the first state; abstract: its shapes and shardings.
    train_step: compiled at its first call; it takes the old state's memory (donation).
    rows: which rows of a batch this process reads; repeats: how many batches a step takes.
    """

    create: Callable[[], TrainState]
    abstract: TrainState
    train_step: TrainStep
    rows: slice
    evaluation_key: Key
    repeats: int
    layout: Layout


def prepare(experiment: Experiment, mesh: Mesh, parallel: Parallel = USUAL) -> Prepared:
    """Works out all shapes and shardings; computes nothing yet.

    Raises:
        UserError: if the batch doesn't divide over the mesh, a number of steps is below 1, one
            step would take more rows than there are items, or the options of `parallel` don't go
            with each other, the mesh or the experiment.
    """
    check_parallel(parallel, mesh)
    counts = {
        "steps": experiment.steps,
        "log_every": experiment.log_every,
        "checkpoint_every": experiment.checkpoint_every,
        **{f"every of the preview {p.name!r}": p.every for p in experiment.previews},
    }
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} is {count}; it must be at least 1.")
    source = experiment.data["train"]
    rows = local_rows(source.batch_size, mesh)
    repeats = max(update.repeats for update in experiment.updates)
    taken = repeats * source.batch_size
    if repeats > 1 and isinstance(source, Shuffling) and taken > len(source.items):
        raise UserError(
            f"{repeats} updates a step on fresh batches of {source.batch_size} take more than the "
            f"{len(source.items)} items there are, so that a step would see some of them twice: "
            "take fewer repeats or a smaller batch."
        )
    _, training, evaluation = random_keys(experiment.seed)
    create, abstract = prepare_state(experiment, mesh, first_row(experiment), parallel)
    _check_reduce_once(experiment.updates, abstract)
    _warn_of_idle_axes(mesh, abstract)
    return Prepared(
        create=create,
        abstract=abstract,
        train_step=_train_step(experiment.updates, training, mesh, abstract, parallel),
        rows=rows,
        evaluation_key=evaluation,
        repeats=repeats,
        layout=with_rules(experiment.rules, parallel.pipeline),
    )


def operations_of_step(
    experiment: Experiment, prepared: Prepared, state: TrainState, batch: Batch, mesh: Mesh
) -> Operations:
    """What one step computes; its trace is the one that will be compiled.

    An update with `every` counts as if it ran in each step.
    """
    step: Any = prepared.train_step
    if mesh.shape["stage"] == 1:
        return operations(step.trace(state, batch).jaxpr)
    # Pipelines work in vain in their bubbles: what one device would do doesn't count those.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch))
    with jax.set_mesh(make_mesh(MeshShape(), jax.local_devices()[:1])):
        # Here, since a key belongs to the mesh that it was made in.
        alone = make_train_step(experiment.updates, random_keys(experiment.seed)[1])
        return operations_of(alone, *shapes)


def first_row(experiment: Experiment) -> Batch:
    """What `init` sees, the first row of the first batch: the same for any number of processes."""
    return experiment.data["train"].batch(0, slice(0, 1))


def prepare_state(
    experiment: Experiment,
    mesh: Mesh,
    first: Mapping[str, Any],
    parallel: Parallel = USUAL,
) -> tuple[Callable[[], TrainState], TrainState]:
    """The function that makes the first state, and the shapes and shardings of every state.

    first: `first_row`; `jax.ShapeDtypeStruct`s of it will do where no state is made.
    """
    prepare = initializer(
        experiment.init, experiment.updates, mesh, experiment.pretrained, parallel
    )
    with layout_in_use(with_rules(experiment.rules, parallel.pipeline)):
        return prepare(random_keys(experiment.seed)[0], first)


def _train_step(
    updates: Sequence[Update], key: Key, mesh: Mesh, abstract: TrainState, parallel: Parallel
) -> TrainStep:
    if parallel.executor == "pmap":
        return make_pmap_step(updates, key, mesh, abstract)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        make_train_step([_placed(update, abstract, parallel) for update in updates], key),
        donate_argnums=0,
        in_shardings=(places, batch_sharding(mesh)),
        out_shardings=(places, None, None),
    )


def _placed(update: Update, abstract: TrainState, parallel: Parallel) -> Update:
    """The update with its optimizer's state where `abstract` says."""
    optimizer = update.optimizer
    moved, _ = split(abstract.params, update.moves)
    if parallel.shard_optimizer:
        optimizer = split_over_copies(
            optimizer,
            whole=jax.tree.map(lambda leaf: leaf.sharding, moved),
            shards=jax.tree.map(lambda leaf: split_further(leaf.sharding, leaf.shape), moved),
        )
    if parallel.offload_optimizer:
        states = abstract.optimizer_states[update.name]
        optimizer = kept_on_host(optimizer, jax.tree.map(lambda leaf: leaf.sharding, states))
    return dataclasses.replace(update, optimizer=optimizer)


def _check_reduce_once(updates: Sequence[Update], abstract: TrainState) -> None:
    """Raises a `UserError` for variables that groups of devices can't each have whole."""
    for update in updates:
        if not update.reduce_once or update.accumulate == 1:
            continue
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract.variables):
            if any(axis in COPIES for place in leaf.sharding.spec for axis in axes_of(place)):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise UserError(
                    f"The update {update.name!r} can't reduce its gradients once: the variable "
                    f"{name} has rows of the batch, which belong to single groups of devices."
                )


def _warn_of_idle_axes(mesh: Mesh, abstract: TrainState) -> None:
    """Says so if devices would do the same work as others: nothing is split over their axis."""
    split = {
        axis
        for leaf in jax.tree.leaves(abstract.params)
        for place in leaf.sharding.spec
        for axis in axes_of(place)
    }
    for axis in ("stage", "tensor"):
        if mesh.shape[axis] > 1 and axis not in split:
            log.warning(
                "No parameter of this experiment is split over the mesh's %s axis: its %d devices "
                "all do the same work. Leave out --mesh.%s.",
                axis,
                mesh.shape[axis],
                axis,
            )
