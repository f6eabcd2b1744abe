"""Features of many pictures, read by a network over all devices while the pictures stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from jaxgen.errors import UserError
from jaxgen.experiment import Items, Params
from jaxgen.parallel.sharding import fetched

# A set of pictures: all of it, items with an "image", or pieces of it as they are made.
Pictures = np.ndarray | jax.Array | Items | Iterable[np.ndarray]
Labels = Int[np.ndarray, "count"]
Features = Float[np.ndarray, "count features"]


def read(
    network: nn.Module, params: Params, pictures: Pictures, batch_size: int = 256
) -> tuple[Labels, Features]:
    """Labels and features of pictures (count, height, width, channels) in [-1, 1], on the host.

    Raises `UserError` for pictures of another shape or range, and where there are none.
    """
    parts = list(read_in_batches(network, params, pictures, batch_size))
    return (
        np.concatenate([labels for labels, _ in parts]),
        np.concatenate([features for _, features in parts]),
    )


def read_in_batches(
    network: nn.Module, params: Params, pictures: Pictures, batch_size: int = 256
) -> Iterator[tuple[Labels, Features]]:
    """The same, a batch at a time: no more than two batches of the pictures are ever in memory.

    The work is split over the devices of the mesh in use (`jax.set_mesh`); without one it is done
    where the parameters lie. `network` maps pictures to (logits, features). The batch is made a
    multiple of the devices, and the last one filled up, so that one compiled function serves all.
    """
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        batch_size += -batch_size % mesh.size
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    for batch in batches(pictures, batch_size):
        missing = batch_size - len(batch)
        filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
        placed = (
            filled
            if mesh.empty
            else jax.device_put(filled, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
        )
        logits, features = fetched(_apply(network, params, placed))
        yield np.argmax(logits, -1)[: len(batch)], features[: len(batch)]


@partial(jax.jit, static_argnums=0)
def _apply(network: nn.Module, params: Params, pictures: Any) -> Any:
    return network.apply({"params": params}, pictures)


def batches(pictures: Pictures, rows: int) -> Iterator[np.ndarray]:
    """The pictures anew in pieces of `rows`, the last one shorter, as float32.

    Raises `UserError` where they are not (count, height, width, channels) numbers in [-1, 1], or
    there are none. Somewhat beyond [-1, 1] is allowed, as unclipped samplers go there.
    """
    waiting: list[np.ndarray] = []
    held, lowest, highest = 0, np.inf, -np.inf
    for piece in _pieces(pictures, rows):
        piece = _checked(piece)
        lowest, highest = min(lowest, float(piece.min())), max(highest, float(piece.max()))
        if waiting and piece.shape[1:] != waiting[0].shape[1:]:
            raise UserError(
                f"All pictures of a set must have one shape, not {waiting[0].shape[1:]} and "
                f"{piece.shape[1:]}: resize them."
            )
        waiting.append(piece)
        held += len(piece)
        while held >= rows:
            joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            yield joined[:rows]
            waiting, held = [joined[rows:]], held - rows
    if held:
        yield np.concatenate(waiting)
    if lowest > highest:
        raise UserError("There are no pictures to look at: draw at least one.")
    # Blank pictures are a model's own business; from black at 0 to white is another range.
    if 0 <= lowest < 0.05 and highest > 0.95:
        raise UserError(
            f"Pictures must lie in [-1, 1], black at -1, and these lie in [{lowest:.3g}, "
            f"{highest:.3g}]: scale them."
        )


def _pieces(pictures: Pictures, rows: int) -> Iterable[np.ndarray]:
    if isinstance(pictures, np.ndarray | jax.Array):
        pictures = np.asarray(pictures)
        return [pictures[start : start + rows] for start in range(0, len(pictures), rows)]
    if isinstance(pictures, Items) and not isinstance(pictures, Sequence):
        count = len(pictures)
        return (
            pictures[np.arange(start, min(start + rows, count))]["image"]
            for start in range(0, count, rows)
        )
    return pictures


def _checked(piece: np.ndarray) -> np.ndarray:
    piece = np.asarray(piece)
    if piece.ndim != 4 or not piece.size:
        raise UserError(
            f"Pictures must be (count, height, width, channels), and these are {piece.shape}: "
            "reshape them, one channel included."
        )
    if not np.issubdtype(piece.dtype, np.floating):
        raise UserError(
            f"Pictures must be floats in [-1, 1], and these are {piece.dtype}: "
            "divide levels by 127.5 and subtract 1."
        )
    if not np.isfinite(piece).all():
        raise UserError("Some of the pictures are not finite: look at what draws them.")
    return piece.astype(np.float32, copy=False)
