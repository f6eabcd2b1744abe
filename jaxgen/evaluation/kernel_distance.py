"""The kernel distance between two sets of features, in float64 on the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.evaluation.neighbours import enough

Features = Float[np.ndarray, "count features"]


class KernelDistance(NamedTuple):
    """value: the mean over subsets; error: their standard deviation, that of one subset's value."""

    value: float
    error: float


def kernel_distance(
    real: Features,
    samples: Float[np.ndarray, "samples features"],
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """The squared maximum mean discrepancy, averaged over random subsets of both sets.

    KID of Bińkowski et al. 2018 (section 4): unbiased whatever the number of samples, which the
    Fréchet distance is not, and therefore below 0 about as often as above where the sets are of one
    distribution. Subsets overlap, so `error` is the spread of a single subset's value and no
    standard error of the mean.

    subset_size: at most; where a set is small, half of it, so that subsets differ at all.
    seed: chooses the subsets.

    Raises `UserError` where a set has fewer than 4 items.
    """
    enough("The kernel distance", 4, real_items=len(real), samples=len(samples))
    size = min(subset_size, len(real) // 2, len(samples) // 2)
    generator = np.random.default_rng(seed)
    values = [
        squared_discrepancy(
            real[generator.choice(len(real), size, replace=False)],
            samples[generator.choice(len(samples), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def squared_discrepancy(real: Features, samples: Float[np.ndarray, "samples features"]) -> float:
    """The unbiased MMD² (Gretton et al. 2012, equation 3) with k(x, y) = (x·y / features + 1)³.

    A set against itself scores below 0: its items meet themselves only across the two sets.
    """
    real, samples = np.asarray(real, np.float64), np.asarray(samples, np.float64)
    within = [_mean_off_diagonal(_kernel(some, some)) for some in (real, samples)]
    return float(sum(within) - 2 * np.mean(_kernel(real, samples)))


def _kernel(one: Features, other: Float[np.ndarray, "others features"]) -> np.ndarray:
    inner = one @ other.T
    inner /= one.shape[1]
    inner += 1
    return inner * inner * inner


def _mean_off_diagonal(kernel: Float[np.ndarray, "count count"]) -> float:
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
