"""The one place that builds a device mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxgen.errors import UserError


@dataclass(frozen=True)
class MeshShape:
    """How many devices stand along each axis of the mesh; one axis may be -1, "the rest".

    The order is that of the mesh: what stands last has neighbouring devices, and talks most.
    """

    slices: int = 1  # groups of devices with only the data centre's network between them
    stage: int = 1  # layers are split here, one group of devices after the other (pipeline)
    data: int = -1  # copies of the model, each with its part of the batch
    fsdp: int = 1  # the batch is split here too, and so are parameters and optimizer state
    expert: int = 1  # the batch is split here too, and so are the experts of a mixture
    sequence: int = 1  # positions of a sequence are split here (ring attention)
    tensor: int = 1  # single matrices are split here (heads, hidden width, vocabulary)


AXES = tuple(field.name for field in dataclasses.fields(MeshShape))


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with all axes of `MeshShape` over all devices, or over those that are given.

    Each of `slices` holds the devices of one slice (or as many whole ones as divide evenly), where
    devices say of which they are; else devices of one process stay together. Axes are Auto: the
    compiler propagates shardings (with jax's default, Explicit, several Linen layers fail).

    Raises:
        UserError: if the shape doesn't multiply to the number of devices, or its slices aren't
            those that there are.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _filled(shape, len(devices))
    inner = tuple(sizes.values())[1:]
    groups = [
        mesh_utils.create_device_mesh(inner, group, allow_split_physical_axes=True)
        for group in _slices(devices, sizes["slices"])
    ]
    return Mesh(np.stack(groups), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def described(sizes: dict[str, int]) -> str:
    """The axes that split anything, "data 2 × fsdp 4"."""
    said = [f"{name} {size}" for name, size in sizes.items() if size != 1]
    return " × ".join(said) or "data 1"


def _filled(shape: MeshShape, count: int) -> dict[str, int]:
    sizes = dataclasses.asdict(shape)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(
            f"The mesh {described(sizes)} is not one: every axis takes a positive number, "
            "and one of them may be -1 (the devices that are left)."
        )
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    asked = described(sizes)
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if int(np.prod(list(sizes.values()))) != count:
        raise UserError(
            f"The mesh {asked} does not fit {count} devices: the axes must multiply "
            f"to {count}; give one of them as -1 to take what is left."
        )
    return sizes


def _slices(devices: list[Any], count: int) -> list[list[Any]]:
    """The devices in `count` equal groups, no slice in two of them."""
    if count == 1:
        return [devices]
    kind = "slice" if len({getattr(d, "slice_index", 0) for d in devices}) > 1 else "process"
    of = {d: getattr(d, f"{kind}_index", 0) for d in devices}
    # What one slice or process has can be cut, to try the layout out; several can't be mixed.
    there = len(set(of.values()))
    if there > 1 and there % count:
        raise UserError(
            f"The mesh's {count} slices can't be made of {there} {kind}s with whole {kind}s in "
            f"each: take a divisor of {there} for slices."
        )
    ordered = sorted(devices, key=lambda d: (of[d], d.id))
    size = len(devices) // count
    return [ordered[start : start + size] for start in range(0, len(devices), size)]
