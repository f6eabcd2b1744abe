"""The Fréchet distance between two sets of features, in float64 on the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxgen.errors import UserError


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of features, kept as sums so that sets can be joined.

    count: items so far.
    mean: (features,).
    scatter: (features, features), the sum of the outer products of the deviations from the mean.
    """

    count: int
    mean: Float[np.ndarray, "features"]
    scatter: Float[np.ndarray, "features features"]

    @staticmethod
    def of(features: Float[np.ndarray, "count features"]) -> Moments:
        """Of one batch; at least one item."""
        values = np.asarray(features, np.float64)
        mean = values.mean(0)
        centred = values - mean
        return Moments(len(values), mean, centred.T @ centred)

    @staticmethod
    def of_batches(batches: Iterable[np.ndarray]) -> Moments:
        """Of features (rows, features) as they come; no two batches need be in memory together.

        Raises `UserError` where none comes.
        """
        found = None
        for batch in batches:
            moments = Moments.of(batch)
            found = moments if found is None else found.joined(moments)
        if found is None:
            raise UserError("There are no features to take moments of: draw at least one sample.")
        return found

    def joined(self, other: Moments) -> Moments:
        """Of both sets together (Chan, Golub & LeVeque 1983), exact whatever the batches."""
        count = self.count + other.count
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * (other.count / count),
            self.scatter + other.scatter + np.outer(gap, gap) * (self.count * other.count / count),
        )

    def covariance(self) -> Float[np.ndarray, "features features"]:
        """The unbiased covariance.

        Raises `UserError` where there are not more items than features: it would be singular.
        """
        features = len(self.mean)
        if self.count <= features:
            raise UserError(
                f"The Fréchet distance over {features} features needs at least {features + 1} "
                f"samples, and there are {self.count}: draw more."
            )
        return self.scatter / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), between Gaussians of these moments.

    Dowson & Landau 1982; on the features of a network, Heusel et al. 2017. The square of a metric.
    Raises `UserError` where either set has too few items.
    """
    first, second = one.covariance(), other.covariance()
    gap = one.mean - other.mean
    # tr (Σ₁ Σ₂)^½ is the sum of the singular values of A₁ᵀ A₂ for any roots Σ = A Aᵀ: unlike the
    # root of the product, that is real and never negative, however close to singular they are.
    overlap = np.linalg.svd(_root(first).T @ _root(second), compute_uv=False).sum()
    return float(max(0.0, gap @ gap + np.trace(first) + np.trace(second) - 2 * overlap))


def _root(covariance: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
