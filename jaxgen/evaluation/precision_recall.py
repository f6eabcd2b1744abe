"""Precision and recall of samples, by the neighbourhoods of features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxgen.errors import UserError

Features = Float[np.ndarray, "count features"]


class PrecisionRecall(NamedTuple):
    """precision: share of samples that look real; recall: share of the real that are covered."""

    precision: float
    recall: float


def precision_recall(
    real: Features,
    samples: Float[np.ndarray, "samples features"],
    neighbours: int = 3,
    chunk: int = 1024,
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equation 1), in float64.

    A point is inside a set if it is at most as far from some member as that member from its
    `neighbours`-th nearest fellow. Distances are computed `chunk` rows at a time. Raises
    `UserError` where a set has no `neighbours` fellows.
    """
    for name, members in (("real items", real), ("samples", samples)):
        if len(members) <= neighbours:
            raise UserError(
                f"Precision and recall with {neighbours} neighbours need at least "
                f"{neighbours + 1} {name}, and there are {len(members)}: draw more."
            )
    real, samples = np.asarray(real, np.float64), np.asarray(samples, np.float64)
    return PrecisionRecall(
        precision=float(np.mean(_inside(samples, real, neighbours, chunk))),
        recall=float(np.mean(_inside(real, samples, neighbours, chunk))),
    )


def _inside(
    points: Features, members: Float[np.ndarray, "members features"], neighbours: int, chunk: int
) -> Bool[np.ndarray, "count"]:
    radii = np.concatenate(
        [
            # The nearest of a member is itself, at 0: its fellows come after.
            np.partition(_squared_distances(part, members), neighbours, axis=1)[:, neighbours]
            for part in _chunks(members, chunk)
        ]
    )
    return np.concatenate(
        [
            np.any(_squared_distances(part, members) <= radii[None, :], axis=1)
            for part in _chunks(points, chunk)
        ]
    )


def _chunks(rows: np.ndarray, chunk: int) -> list[np.ndarray]:
    return [rows[start : start + chunk] for start in range(0, len(rows), chunk)]


def _squared_distances(
    rows: Features, members: Float[np.ndarray, "members features"]
) -> Float[np.ndarray, "count members"]:
    squares = np.sum(rows**2, 1)[:, None] + np.sum(members**2, 1)[None, :]
    return np.maximum(squares - 2 * rows @ members.T, 0.0)
