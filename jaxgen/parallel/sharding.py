"""From logical axis names to places on the mesh.

Networks name the axes of their parameters ("embed", "mlp", ...) with
`flax.linen.with_logical_partitioning`; the table below says over which mesh axis each is split.
The names are taken off at initialization, so parameters are plain dicts everywhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxgen.errors import UserError
from jaxgen.parallel.layout import BATCH_AXES, Layout, Rules, axes_of, current_layout
from jaxgen.parallel.mesh import described

# Along these, devices hold the same parameters and other rows.
COPIES = ("slices", "data")


def _is_box(leaf: object) -> bool:
    return isinstance(leaf, meta.AxisMetadata)


def unbox(tree: Any) -> Any:
    """Takes the boxes with axis names off the leaves of `tree`."""
    # Not Linen's own unbox: that one adds sharding constraints of its own inside a mesh.
    return jax.tree.map(
        lambda leaf: leaf.value if _is_box(leaf) else leaf,
        tree,
        is_leaf=_is_box,
    )


def partition_spec(
    names: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    rules: Rules | None = None,
) -> PartitionSpec:
    """Places one array: axis i, called `names[i]` and `shape[i]` long, on the mesh.

    An axis stays whole where the mesh axis doesn't divide it (three colour channels, an odd
    vocabulary) or is taken by an earlier axis of the same array; of several mesh axes, those that
    are left are used from the first on. `rules` are those of the layout in use, unless given.

    Raises:
        UserError: for a name that the rules don't know.
    """
    rules = current_layout().places if rules is None else rules
    # Inside shard_map some axes may be taken apart already.
    taken = {
        axis
        for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Auto or mesh.shape[axis] == 1
    }
    places: list[str | tuple[str, ...] | None] = []
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in rules:
            raise UserError(
                f"No sharding rule for the logical axis {name!r}; known are {', '.join(rules)}."
            )
        place = None if name is None else rules[name]
        axes = tuple(axis for axis in axes_of(place) if axis not in taken)
        while size % math.prod(mesh.shape[axis] for axis in axes):
            axes = axes[:-1]
        taken |= set(axes)
        places.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*places)


def shardings(boxed: Any, mesh: Mesh, rules: Rules | None = None) -> Any:
    """The sharding of each leaf of a tree of boxed or plain arrays (or their shapes).

    Leaves without names are replicated.
    """

    def place(leaf: Any) -> NamedSharding:
        if not _is_box(leaf):
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, partition_spec(leaf.names, leaf.value.shape, mesh, rules))

    return jax.tree.map(place, boxed, is_leaf=_is_box)


def without_axes(layout: Layout, axes: Sequence[str]) -> Layout:
    """The layout in which nothing is split over `axes`: what they hold was split before."""
    rules = []
    for name, place in layout.rules:
        split = axes_of(place)
        rules.append((name, tuple(axis for axis in split if axis not in axes)))
    return dataclasses.replace(layout, rules=tuple(rules))


def constrained(x: Array, names: Sequence[str | None]) -> Array:
    """The same array, inside `jit` placed on the mesh in use as `partition_spec` says; if any."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(names, x.shape, mesh))


def gathered(parameter: Array | np.ndarray, names: Sequence[str | None]) -> Any:
    """A parameter as its layer uses it: whole over devices that hold other rows, else split.

    That is what fully sharded training means (Rajbhandari et al. 2020): gathered before each use,
    its gradient summed back into shards. Left to itself the compiler may split activations over
    `fsdp` to meet the parameter instead, and then was seen to compute wrong gradients where rows,
    `fsdp` and `tensor` are all split (jax 0.10.2 and 0.12.0.1, on simulated devices; LOG.md).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return parameter
    spec = partition_spec(names, parameter.shape, mesh)
    kept = [
        tuple(axis for axis in axes_of(place) if axis not in BATCH_AXES) or None for place in spec
    ]
    return jax.lax.with_sharding_constraint(parameter, PartitionSpec(*kept))


def shards_parameters() -> bool:
    """Whether the mesh in use splits parameters over devices that hold other rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape["fsdp"] * mesh.shape["expert"] > 1


def check_divides(size: int, name: str, told: str) -> None:
    """Raises a `UserError` if the logical axis `name`, `size` long, can't be split as rules say.

    For axes that nobody would want whole on each device; `told` is what the user calls them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    place = None if mesh.empty else current_layout().places[name]
    sizes = {axis: mesh.shape[axis] for axis in axes_of(place)}
    if size % math.prod(sizes.values()):
        raise UserError(
            f"{size} {told} don't divide over {described(sizes)}: take a multiple of "
            f"{math.prod(sizes.values())} {told}, or another mesh."
        )


def like_parameters(tree: Any, params: Any, params_shardings: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of `tree` that has a parameter's path and shape: that parameter's.

    Optimizer states and moving averages hold trees like the parameters somewhere inside (Adam's
    moments below `mu` and `nu`); a leaf belongs to the parameter whose path its own path ends in.
    All else (counters, factored moments) is replicated.
    """
    known = {
        _keys(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(params_shardings),
            strict=True,
        )
    }

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = _keys(path)
        for start in range(len(keys)):
            shape, sharding = known.get(keys[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def split_further(
    sharding: NamedSharding, shape: Sequence[int], axes: tuple[str, ...] = COPIES
) -> NamedSharding:
    """The sharding of an array that is split over `axes` besides; the same if none divides it.

    The first axis of the array that isn't split yet and divides is taken, else one that is split
    already is split further; if all of `axes` are too many, those that stand last are tried.
    """
    mesh = sharding.mesh
    spec = list(sharding.spec) + [None] * (len(shape) - len(sharding.spec))
    places = [axes_of(place) for place in spec]
    used = {axis for place in places for axis in place}
    left = tuple(axis for axis in axes if axis not in used and mesh.shape[axis] > 1)
    while left:
        # Stable, so that of equals the first comes first.
        for index in sorted(range(len(shape)), key=lambda index: bool(places[index])):
            further = places[index] + left
            if shape[index] % math.prod(mesh.shape[axis] for axis in further) == 0:
                places[index] = further
                return NamedSharding(mesh, PartitionSpec(*places))
        left = left[1:]
    return sharding


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a `UserError` unless the mesh's batch axes divide `batch_size` rows."""
    sizes = {axis: mesh.shape[axis] for axis in BATCH_AXES}
    split = math.prod(sizes.values())
    if batch_size % split:
        raise UserError(
            f"A batch of {batch_size} rows does not divide over {split} devices "
            f"({described(sizes)}): "
            f"take a multiple of {split}, or another mesh."
        )


def local_rows(batch_size: int, mesh: Mesh) -> slice:
    """Which rows of a batch this process has to read."""
    check_batch_size(batch_size, mesh)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    places = sharding.addressable_devices_indices_map((batch_size,))
    rows = [index[0] for index in places.values() if index is not None]
    starts = [row.start or 0 for row in rows]
    stops = [batch_size if row.stop is None else row.stop for row in rows]
    return slice(min(starts), max(stops))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a step's batch lies, leaves (repeats, rows, ...): its rows over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def global_batch(local: Any, batch_size: int, mesh: Mesh) -> Any:
    """This process's rows, leaves (repeats, local rows, ...), as part of arrays over the mesh.

    A lone process has all rows already: a function compiled for `batch_sharding` takes them as
    they are, in a fraction of the host's time.
    """
    if jax.process_count() == 1:
        return local
    sharding = batch_sharding(mesh)
    rows = local_rows(batch_size, mesh)

    def join(leaf: np.ndarray) -> jax.Array:
        # By callback, since this process's devices may need its rows in any order.
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[1].indices(batch_size)
            return leaf[:, start - rows.start : stop - rows.start]

        return jax.make_array_from_callback(
            (leaf.shape[0], batch_size, *leaf.shape[2:]), sharding, part
        )

    return jax.tree.map(join, local)


def fetched(tree: Any) -> Any:
    """The arrays as numpy arrays of this host, whole, wherever their parts lie.

    Several processes have to ask together: what one has is sent to all.
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)
