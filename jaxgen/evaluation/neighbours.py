"""Nearest neighbours among features, by brute force, `chunk` rows at a time, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxgen.errors import UserError

Features = Float[np.ndarray, "count features"]


class Nearest(NamedTuple):
    """distances: from each query to its nearest member; indices: which member that is."""

    distances: Float[np.ndarray, "queries"]
    indices: Int[np.ndarray, "queries"]


def radii(members: Features, neighbours: int, chunk: int = 1024) -> Float[np.ndarray, "count"]:
    """Squared distances from each member to its `neighbours`-th nearest fellow."""
    return np.concatenate(
        [
            # The nearest of a member is itself, at 0: its fellows come after.
            np.partition(block, neighbours, axis=1)[:, neighbours]
            for _, block in distance_blocks(members, members, chunk)
        ]
    )


def distance_blocks(
    points: Features, members: Float[np.ndarray, "members features"], chunk: int = 1024
) -> Iterator[tuple[slice, Float[np.ndarray, "rows members"]]]:
    """Squared distances from `chunk` points at a time to all members, with which points."""
    members = np.asarray(members, np.float64)
    squares = np.sum(members**2, 1)
    for start in range(0, len(points), chunk):
        rows = np.asarray(points[start : start + chunk], np.float64)
        block = rows @ members.T
        # In place: the blocks are what takes the time, and not the product.
        block *= -2.0
        block += np.sum(rows**2, 1)[:, None]
        block += squares[None, :]
        yield slice(start, start + len(rows)), np.maximum(block, 0.0, out=block)


def nearest(
    queries: Float[np.ndarray, "queries features"],
    members: Features | Iterable[np.ndarray],
    chunk: int = 1024,
) -> Nearest:
    """The nearest member of each query; of several, the first.

    members: all of them, or pieces (rows, features) as they come, which never stand in memory
        together; indices count through the pieces. Raises `UserError` where there are none.
    """
    squared = np.full(len(queries), np.inf)
    indices = np.zeros(len(queries), np.int64)
    seen = 0
    for piece in [members] if isinstance(members, np.ndarray) else members:
        for rows, block in distance_blocks(queries, piece, chunk):
            here = np.argmin(block, axis=1)
            found = np.take_along_axis(block, here[:, None], axis=1)[:, 0]
            closer = found < squared[rows]
            squared[rows] = np.where(closer, found, squared[rows])
            indices[rows] = np.where(closer, here + seen, indices[rows])
        seen += len(piece)
    if not seen:
        raise UserError("There is nothing to be near to: give at least one item.")
    return Nearest(np.sqrt(squared), indices)


def enough(score: str, least: int, **counts: int) -> None:
    """Raises `UserError` where one of the named sets has fewer than `least` items."""
    for name, count in counts.items():
        if count < least:
            raise UserError(
                f"{score} needs at least {least} {name.replace('_', ' ')}, and there are {count}: "
                "draw more."
            )
