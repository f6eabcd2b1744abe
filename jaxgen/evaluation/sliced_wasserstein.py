"""The sliced Wasserstein distance between two sets of features, in float64 on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jaxgen.evaluation.neighbours import enough

Features = Float[np.ndarray, "count features"]


def sliced_wasserstein_distance(
    real: Features,
    samples: Float[np.ndarray, "samples features"],
    directions: int = 256,
    seed: int = 0,
) -> float:
    """The root of the mean squared 2-Wasserstein distance along random directions, in float64.

    Rabin et al. 2011; Bonneel et al. 2015 (equation 8). In the features' own unit; between sets
    that differ by a shift alone it is the shift's length over √features on average. Like the
    Fréchet distance it falls as samples are added. Sets need not be equally large.

    seed: chooses the directions. Raises `UserError` where a set is empty.
    """
    enough("The sliced Wasserstein distance", 1, real_items=len(real), samples=len(samples))
    chosen = np.random.default_rng(seed).normal(size=(real.shape[1], directions))
    chosen /= np.linalg.norm(chosen, axis=0, keepdims=True)
    first = np.sort(np.asarray(real, np.float64) @ chosen, axis=0)
    second = np.sort(np.asarray(samples, np.float64) @ chosen, axis=0)
    # In one dimension the best plan is monotone: the two quantile functions side by side. Both are
    # steps, and constant between neighbouring ends of either's steps.
    ends = np.union1d(
        np.arange(1, len(first) + 1) * len(second), np.arange(1, len(second) + 1) * len(first)
    )
    shares = np.diff(ends, prepend=0) / (len(first) * len(second))
    at_first, at_second = (ends - 1) // len(second), (ends - 1) // len(first)
    squared = np.square(first[at_first] - second[at_second])
    return float(np.sqrt(np.mean(shares @ squared)))
