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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Key, Update
from jaxgen.parallel.sharding import batch_sharding
from jaxgen.training.state import TrainState
from jaxgen.training.step import Metrics, make_train_step

_DEVICES = "devices"


@dataclass(frozen=True)
class PmapStep:
    """A train step over all devices of a mesh of which only `data` is split; compiles when called.

    State and batch come as for `jit`, and the state goes so: whole on every device, though its
    arrays may name another mesh of the same devices. The old state's memory is taken.

    trace: as `jit`'s, of the step as one program over the whole batch: for who counts operations.
    """

    run: Callable[[TrainState, Batch], tuple[TrainState, Metrics, Any]]
    deal: Callable[[Batch], Batch]
    places: TrainState
    trace: Callable[[TrainState, Batch], Any]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Any]:
        """The next state, the metrics, and whether all was finite."""
        with jax.set_mesh(None):  # pmap brings a mesh of its own
            state, metrics, finite = self.run(state, self.deal(batch))
        # Naming our mesh again would cost a lone process more than the rest of a small step.
        alone = jax.process_count() == 1
        return state if alone else _global(state, self.places), metrics, finite


def make_pmap_step(
    updates: Sequence[Update], key: Key, mesh: Mesh, abstract: TrainState
) -> PmapStep:
    """The step of `make_train_step` by `pmap`.

    abstract: the state's shapes and shardings.

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
        """Leaves (repeats, rows, ...) as (repeats, devices, rows of a device, ...)."""
        return jax.tree.map(
            lambda leaf: leaf.reshape(leaf.shape[0], mesh.size, -1, *leaf.shape[2:]), batch
        )

    deal_on_devices = jax.jit(dealt, out_shardings=batch_sharding(mesh))

    def deal(batch: Batch) -> Batch:
        on_host = not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batch))
        return dealt(batch) if on_host else deal_on_devices(batch)

    return PmapStep(
        run=run,
        deal=deal,
        places=jax.tree.map(lambda leaf: leaf.sharding, abstract),
        trace=jax.jit(make_train_step(updates, key)).trace,
    )


def _global(state: TrainState, places: TrainState) -> TrainState:
    """The same buffers as arrays over all processes; pmap gives each those over its own devices."""

    def joined(leaf: jax.Array, place: Any) -> jax.Array:
        shards = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, place, shards)

    whole: TrainState = jax.tree.map(joined, state, places)
    return whole
