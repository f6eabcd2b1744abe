"""Mean gradients over parts of a batch and over groups of devices, joined exactly by weight.

Every loss says how much its mean weighs (`Output.weight`: tokens, unmasked items). So means are
kept as weighted sums, added wherever they come together, and divided by the whole weight at the
very end: where the parts lie, and how much each of them holds, changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Key, Output, Params, Update, Variables
from jaxgen.parallel.layout import BATCH_AXES, current_layout, layout_in_use
from jaxgen.parallel.sharding import COPIES, without_axes
from jaxgen.training.state import TrainState

# A gradient and an output; as weighted sums, all but `weight` and `variables` times the weight.
Measured = tuple[Params, Output]
GradientOf = Callable[[Params, TrainState, Batch, Key], Measured]


_GROUPS = "groups"


def mean_gradient(
    gradient_of: GradientOf,
    update: Update,
    moved: Params,
    state: TrainState,
    batch: Batch,
    key: Key,
    axes: tuple[str, ...] = (),
) -> Measured:
    """The gradient and the output over a whole batch, in the parts that `update` asks for.

    gradient_of: of the mean loss over some rows, and what the loss returned, by `moved`.
    axes: those of devices that each hold other rows of the batch, inside `pmap`.

    Raises:
        UserError: if the batch doesn't divide into equal parts.
    """
    if update.accumulate == 1 and not axes:
        return gradient_of(moved, state, batch, key)
    groups = _groups() if update.reduce_once and update.accumulate > 1 else 1
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % (update.accumulate * groups):
        each = f" by each of {groups} groups of devices" if groups > 1 else ""
        raise UserError(
            f"A batch of {rows} rows cannot be accumulated in {update.accumulate} equal "
            f"parts{each}."
        )
    # No loss sees the optimizer states, and they may lie in another memory.
    seen = dataclasses.replace(state, optimizer_states=None)
    if groups > 1:
        sums = _by_groups(gradient_of, update.accumulate, moved, seen, batch, key)
    else:
        sums = _over_parts(gradient_of, update.accumulate, moved, seen, batch, key)
    if axes:
        sums = _joined(sums, state.variables, axes)
    return _mean(sums)


def _over_parts(
    gradient_of: GradientOf,
    parts: int,
    moved: Params,
    state: TrainState,
    batch: Batch,
    key: Key,
) -> Measured:
    """The weighted sums over `parts` micro-batches, one after the other."""
    if parts == 1:
        return _weighted(gradient_of(moved, state, batch, key))

    def dealt(leaf: Any) -> Any:
        # Row i goes to part i % parts, so each device's rows stay on that device.
        return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

    def add(carry: tuple[Params, Variables], part: tuple[Any, Batch]) -> tuple[Any, Output]:
        total, variables = carry
        index, rows = part
        before = dataclasses.replace(state, variables=variables)
        gradient, output = _weighted(
            gradient_of(moved, before, rows, jax.random.fold_in(key, index))
        )
        total = jax.tree.map(jnp.add, total, gradient)
        return (total, output.variables), dataclasses.replace(output, variables=None)

    zeros = jax.tree.map(jnp.zeros_like, moved)
    (total, variables), outputs = jax.lax.scan(
        add, (zeros, state.variables), (jnp.arange(parts), jax.tree.map(dealt, batch))
    )
    added = jax.tree.map(lambda leaf: leaf.sum(0), outputs)
    return total, dataclasses.replace(added, variables=variables)


def _by_groups(
    gradient_of: GradientOf,
    parts: int,
    moved: Params,
    state: TrainState,
    batch: Batch,
    key: Key,
) -> Measured:
    """The weighted sums of groups of devices that each go over the parts of their own rows.

    Left alone, the compiler adds up every part's gradient over all devices. Here what devices
    along `slices` and `data` find stays theirs until the one sum at the end.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == _groups():
        return _by_hand(gradient_of, parts, moved, state, batch, key)
    return _by_axis(gradient_of, parts, moved, state, batch, key)


def _by_hand(
    gradient_of: GradientOf, parts: int, moved: Params, state: TrainState, batch: Batch, key: Key
) -> Measured:
    """Groups of one device: each runs by itself."""

    def local(moved: Params, state: TrainState, batch: Batch, key: Key) -> Measured:
        own_key = jax.random.fold_in(key, jax.lax.axis_index(COPIES))
        sums = _over_parts(gradient_of, parts, moved, state, batch, own_key)
        return _joined(sums, state.variables, COPIES)

    whole, rows = PartitionSpec(), PartitionSpec(COPIES)
    run = jax.shard_map(
        local,
        in_specs=(whole, whole, rows, whole),
        out_specs=whole,
        axis_names=set(COPIES),
        # With the check, gradients by replicated parameters arrive summed already: once a part.
        check_vma=False,
    )
    measured: Measured = run(moved, state, batch, key)
    return measured


def _by_axis(
    gradient_of: GradientOf, parts: int, moved: Params, state: TrainState, batch: Batch, key: Key
) -> Measured:
    """Groups of several devices: an axis of the arrays, which the compiler splits over them.

    Leaving only the other mesh axes to the compiler, as `shard_map` can, ends the program: XLA's
    partitioner aborts at a look-up in a table that is split over two of them (jax 0.10 and 0.12).
    This way it gathers a convolution's inputs over all groups for the gradient of its kernel,
    which is slow; that is why groups of one device don't go it.
    """
    groups = _groups()
    inside = tuple(axis for axis in BATCH_AXES if axis not in COPIES)

    def apart(leaf: Any) -> Any:
        leaf = leaf.reshape(groups, -1, *leaf.shape[1:])
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(COPIES, inside))

    def kept_apart(leaf: Any) -> Any:
        # Says nothing of the leaf's own axes; that of the groups is added by vmap.
        return jax.lax.with_sharding_constraint(
            leaf, PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * leaf.ndim)
        )

    def own_gradient_of(moved: Params, state: TrainState, batch: Batch, key: Key) -> Measured:
        gradient, output = gradient_of(moved, state, batch, key)
        return jax.tree.map(kept_apart, gradient), output

    def of_group(batch: Batch) -> Measured:
        own_key = jax.random.fold_in(key, jax.lax.axis_index(_GROUPS))
        sums = _over_parts(own_gradient_of, parts, moved, state, batch, own_key)
        return _joined(sums, state.variables, (_GROUPS,))

    run = jax.vmap(of_group, out_axes=None, axis_name=_GROUPS, spmd_axis_name=COPIES)
    with layout_in_use(without_axes(current_layout(), COPIES)):
        measured: Measured = run(jax.tree.map(apart, batch))
    return measured


def _groups() -> int:
    """How many groups of devices hold the same parameters and different rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in COPIES)


def _joined(sums: Measured, before: Variables, axes: tuple[str, ...]) -> Measured:
    """The sums of all devices along `axes`, and variables that are the same on all of them."""

    def same(path: Any, before: Any, after: Any) -> Any:
        if after is before:
            return after
        if jnp.issubdtype(after.dtype, jnp.inexact):
            return jax.lax.pmean(after, axes)
        if jnp.issubdtype(after.dtype, jnp.integer):
            return before + jax.lax.psum(after - before, axes)
        raise UserError(
            f"The variable {jax.tree_util.keystr(path, simple=True, separator='/')} of type "
            f"{after.dtype} can't be joined from devices that each see rows of their own: only "
            "floats (their mean) and integers (the sum of what each device adds) can."
        )

    gradient, output = sums
    variables = jax.tree_util.tree_map_with_path(same, before, output.variables)
    gradient, output = jax.lax.psum((gradient, dataclasses.replace(output, variables=None)), axes)
    return gradient, dataclasses.replace(output, variables=variables)


def _weighted(measured: Measured) -> Measured:
    """A mean gradient and output as weighted sums."""
    gradient, output = measured
    weight = jnp.asarray(output.weight, jnp.float32)
    return jax.tree.map(lambda leaf: weight * leaf, gradient), dataclasses.replace(
        output,
        value=weight * output.value,
        weight=weight,
        metrics=jax.tree.map(lambda leaf: weight * leaf, output.metrics),
    )


def _mean(sums: Measured) -> Measured:
    """The inverse of `_weighted`."""
    gradient, output = sums
    return jax.tree.map(lambda leaf: leaf / output.weight, gradient), dataclasses.replace(
        output,
        value=output.value / output.weight,
        metrics=jax.tree.map(lambda leaf: leaf / output.weight, output.metrics),
    )
