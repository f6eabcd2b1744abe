"""Are samples new, or remembered? How near they lie to what was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.evaluation.neighbours import Nearest, enough, nearest

Features = Float[np.ndarray, "count features"]


class Novelty(NamedTuple):
    """Samples against items of the same kind that training never saw.

    nearer: the chance that a sample lies nearer to the training items than a held-out one does, a
        tie counting half: 0.5 for new items, 1 where all is remembered, less than 0.5 off the data.
    copies: the share of samples that lie nearer than 99 of 100 held-out items: 0.01 for new items.
    samples, held_out: each one's nearest training item, for a picture of the pairs.
    """

    nearer: float
    copies: float
    samples: Nearest
    held_out: Nearest


def novelty(
    train: Features | Iterable[np.ndarray],
    held_out: Float[np.ndarray, "held_out features"],
    samples: Float[np.ndarray, "samples features"],
    chunk: int = 1024,
) -> Novelty:
    """Compares distances to the nearest training item; `nearer` is Mann and Whitney's U (1947).

    The test of Meehan et al. 2020 ("A non-parametric test to detect data-copying in generative
    models"), over the whole space. Pixels, flattened, find copies of a picture; features also find
    its shifted twins.

    train: all of it, or pieces (rows, features) as they come, which never stand in memory together.
    Raises `UserError` where a set is empty.
    """
    enough("Novelty", 1, held_out_items=len(held_out), samples=len(samples))
    # Both sets in one pass: the training items may come only once.
    both = nearest(np.concatenate([held_out, samples]), train, chunk)
    of_held_out = Nearest(both.distances[: len(held_out)], both.indices[: len(held_out)])
    of_samples = Nearest(both.distances[len(held_out) :], both.indices[len(held_out) :])
    in_order = np.sort(of_held_out.distances)
    below = np.searchsorted(in_order, of_samples.distances, "left")
    up_to = np.searchsorted(in_order, of_samples.distances, "right")
    return Novelty(
        nearer=float(1 - np.mean((below + up_to) / 2) / len(held_out)),
        copies=float(np.mean(of_samples.distances < np.quantile(in_order, 0.01))),
        samples=of_samples,
        held_out=of_held_out,
    )
