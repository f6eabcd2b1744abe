"""How much of the samples is real, and how much of the real is sampled, by neighbourhoods."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxgen.evaluation.neighbours import distance_blocks, enough, radii

Features = Float[np.ndarray, "count features"]


class PrecisionRecall(NamedTuple):
    """precision: share of samples that look real; recall: share of the real that are covered."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """density: how often samples lie near the real; coverage: share of the real with one near."""

    density: float
    coverage: float


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
    score = f"Precision and recall with {neighbours} neighbours"
    enough(score, neighbours + 1, real_items=len(real), samples=len(samples))
    return PrecisionRecall(
        precision=float(np.mean(_inside(samples, real, neighbours, chunk))),
        recall=float(np.mean(_inside(real, samples, neighbours, chunk))),
    )


def density_coverage(
    real: Features,
    samples: Float[np.ndarray, "samples features"],
    neighbours: int = 5,
    chunk: int = 1024,
) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, equations 7 and 8), in float64.

    Around each real item lies a ball that ends short of its `neighbours`-th nearest fellow.
    Density is the number of balls a sample lies in over `neighbours`, on average, and may exceed 1;
    coverage the share of balls that hold a sample. Only real items set the balls' sizes, so stray
    samples can't inflate them. Two sets of n items of one distribution score on average 1 and
    about 1 - 2^-`neighbours` (their lemma 2, for large n). Raises `UserError` where the real items
    are too few, or there is no sample.
    """
    score = f"Density and coverage with {neighbours} neighbours"
    enough(score, neighbours + 1, real_items=len(real))
    enough(score, 1, samples=len(samples))
    reach = radii(real, neighbours, chunk)
    inside, covered = 0, np.zeros(len(real), bool)
    for _, block in distance_blocks(samples, real, chunk):
        near = block < reach[None, :]
        inside += int(np.count_nonzero(near))
        covered |= near.any(0)
    return DensityCoverage(inside / (neighbours * len(samples)), float(np.mean(covered)))


def _inside(
    points: Features, members: Float[np.ndarray, "members features"], neighbours: int, chunk: int
) -> Bool[np.ndarray, "count"]:
    reach = radii(members, neighbours, chunk)
    return np.concatenate(
        [
            np.any(block <= reach[None, :], axis=1)
            for _, block in distance_blocks(points, members, chunk)
        ]
    )
