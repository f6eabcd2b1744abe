"""An experiment made ready for a mesh: shapes, places, and the step that will be compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Experiment, Key, Shuffling
from jaxgen.parallel.sharding import batch_sharding, local_rows
from jaxgen.training.state import TrainState, initializer, random_keys
from jaxgen.training.step import TrainStep, make_train_step


@dataclass(frozen=True)
class Prepared:
    """An experiment made ready for a mesh.

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


def prepare(experiment: Experiment, mesh: Mesh) -> Prepared:
    """Works out all shapes and shardings; computes nothing yet.

    Raises:
        UserError: if the batch doesn't divide over the mesh, a number of steps is below 1, or one
            step would take more rows than there are items.
    """
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
    create, abstract = prepare_state(experiment, mesh, first_row(experiment))
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return Prepared(
        create=create,
        abstract=abstract,
        train_step=jax.jit(
            make_train_step(experiment.updates, training),
            donate_argnums=0,
            in_shardings=(places, batch_sharding(mesh)),
            out_shardings=(places, None, None),
        ),
        rows=rows,
        evaluation_key=evaluation,
        repeats=repeats,
    )


def first_row(experiment: Experiment) -> Batch:
    """What `init` sees, the first row of the first batch: the same for any number of processes."""
    return experiment.data["train"].batch(0, slice(0, 1))


def prepare_state(
    experiment: Experiment, mesh: Mesh, first: Mapping[str, Any]
) -> tuple[Callable[[], TrainState], TrainState]:
    """The function that makes the first state, and the shapes and shardings of every state.

    first: `first_row`; `jax.ShapeDtypeStruct`s of it will do where no state is made.
    """
    prepare = initializer(experiment.init, experiment.updates, mesh, experiment.pretrained)
    return prepare(random_keys(experiment.seed)[0], first)
