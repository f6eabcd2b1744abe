"""The train step by `jax.pmap`: data parallelism as it was written before `jit` took shardings.

Every device holds the whole state and sees only its own rows of the batch, as if it were alone;
what they find is then joined, so that all move their copies alike:

- gradients, losses and metrics: their means by `Output.weight`, which are exactly the whole
  batch's where rows don't look at each other;
- floats in `variables` (batch statistics, code-books): the mean over devices of what each made of
  its own rows, so a variance is that within a device's rows, and a sum that of one device's;
- integers in `variables`: what each device adds is added up, as counters of rows want it; a
  counter of calls counts all devices' calls;
- `variables` that lie along the batch (a recurrent carry) can't be whole everywhere: refused.

Random keys are folded with the device's number, so noise is the same in distribution as with
`jit`, and the same in numbers only where a loss draws none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Key, Update
from jaxgen.parallel.sharding import batch_sharding
from jaxgen.training.state import TrainState
from jaxgen.training.step import Metrics, TrainStep, make_train_step

_DEVICES = "devices"


def make_pmap_step(
    updates: Sequence[Update], key: Key, mesh: Mesh, abstract: TrainState
) -> TrainStep:
    """A compiled train step over all devices of a mesh whose axes are all 1 but `data`.

    abstract: the state's shapes and shardings. State and batch come as for `jit`, and the state
    goes so: whole on every device, though its arrays may name another mesh of the same devices.
    The old state's memory is taken.

    Raises:
        UserError: if part of the state isn't whole on every device.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
        if not leaf.sharding.is_fully_replicated:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"The executor pmap keeps the whole state on every device, but {name} is split "
                "over them (along the batch, or by the experiment's rules): take the executor pjit."
            )
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    alone = AbstractMesh((), ())

    def on_device(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Any]:
        own_key = jax.random.fold_in(key, jax.lax.axis_index(_DEVICES))
        # Networks ask for the mesh in use; here each works for a single device.
        with jax.sharding.use_abstract_mesh(alone):
            return make_train_step(updates, own_key, (_DEVICES,))(state, batch)

    run = jax.pmap(
        on_device,
        axis_name=_DEVICES,
        in_axes=(None, 1),
        # Whole arrays that are the same on every device: no copies, nothing to stack or to take.
        out_axes=None,
        devices=list(mesh.devices.flat),
        axis_size=mesh.size,
        donate_argnums=0,
    )

    def dealt(batch: Batch) -> Batch:
        return jax.tree.map(
            lambda leaf: leaf.reshape(leaf.shape[0], mesh.size, -1, *leaf.shape[2:]), batch
        )

    deal = jax.jit(dealt, out_shardings=batch_sharding(mesh))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Any]:
        on_host = not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batch))
        with jax.set_mesh(None):  # pmap brings a mesh of its own
            state, metrics, finite = run(state, dealt(batch) if on_host else deal(batch))
        # Naming our mesh again would cost a lone process more than the rest of a small step.
        return state if jax.process_count() == 1 else _global(state, places), metrics, finite

    return train_step


def _global(state: TrainState, places: TrainState) -> TrainState:
    """The same buffers as arrays over all processes; pmap gives each those over its own devices."""

    def joined(leaf: jax.Array, place: Any) -> jax.Array:
        shards = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, place, shards)

    whole: TrainState = jax.tree.map(joined, state, places)
    return whole
