"""Points of the plane drawn from well-parted Gaussians, where every mode can be counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxgen.data.sources import Arrays
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Mixture:
    """Gaussians of equal weight and one deviation in every direction.

    centres: of the modes, (modes, dimensions).
    deviation: standard deviation about each, in the units of the points.
    """

    centres: Float[np.ndarray, "modes dimensions"]
    deviation: float

    def points(self, count: int, seed: int) -> Arrays:
        """`count` items: "point" (dimensions,), and its mode's number as the "label".

        Raises `UserError` where `count` is below 1, as every data set does.
        """
        generator = np.random.default_rng(seed)
        label = generator.integers(len(self.centres), size=count)
        away = generator.normal(scale=self.deviation, size=(count, self.centres.shape[1]))
        return Arrays(
            {
                "point": (self.centres[label] + away).astype(np.float32),
                "label": label.astype(np.int32),
            }
        )


def gaussian_ring(modes: int = 8, radius: float = 2.0, deviation: float = 0.02) -> Mixture:
    """Modes on a circle about 0, the first on the right (Metz et al. 2017, "Unrolled GANs")."""
    if modes < 1:
        raise UserError(f"A ring needs at least 1 mode, not {modes}.")
    angle = 2 * np.pi * np.arange(modes) / modes
    return Mixture(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), deviation)


def gaussian_grid(side: int = 5, reach: float = 4.0, deviation: float = 0.05) -> Mixture:
    """`side`² modes on a square from -reach to reach, as in Lin et al. 2018 (PacGAN)."""
    if side < 2:
        raise UserError(f"A grid needs at least 2 modes a side, not {side}.")
    places = np.linspace(-reach, reach, side)
    return Mixture(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2), deviation)
