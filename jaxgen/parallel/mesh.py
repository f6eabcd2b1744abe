"""The one place that builds a device mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxgen.errors import UserError


@dataclass(frozen=True)
class MeshShape:
    """How many devices stand along each axis of the mesh; one axis may be -1, "the rest"."""

    data: int = -1  # copies of the model, each with its part of the batch
    fsdp: int = 1  # the batch is split here too, and so are parameters and optimizer state
    tensor: int = 1  # single matrices are split here (heads, hidden width, vocabulary)


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor` over all devices.

    Neighbouring devices share the innermost axis, `tensor`, which talks most. Axes are Auto: the
    compiler propagates shardings (with jax's default, Explicit, several Linen layers fail).

    Raises:
        UserError: if the shape doesn't multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": shape.data, "fsdp": shape.fsdp, "tensor": shape.tensor}
    free = [name for name, size in sizes.items() if size == -1]
    described = " × ".join(f"{name} {size}" for name, size in sizes.items())
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(
            f"The mesh {described} is not one: every axis takes a positive number, "
            "and one of them may be -1 (the devices that are left)."
        )
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise UserError(
            f"The mesh {described} does not fit {len(devices)} devices: the axes must multiply "
            f"to {len(devices)}; give one of them as -1 to take what is left."
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )
