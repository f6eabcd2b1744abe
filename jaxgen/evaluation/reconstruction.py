"""How much of a picture an autoencoder keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxgen.evaluation.features import Pictures, batches
from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.image_scores import Read
from jaxgen.parallel.sharding import fetched


def reconstruction_scores(
    read: Read, reconstruct: Callable[[np.ndarray], np.ndarray], pictures: Pictures, rows: int = 250
) -> dict[str, float]:
    """Scores of `reconstruct(pictures)` against the pictures themselves, over all of them.

    reconstruct: pictures (`rows`, height, width, channels) in [-1, 1] to as many; the last batch is
        filled up, so that a compiled function serves all.
    pictures: all of them, items with an "image", or pieces as they come; float in [-1, 1].

    "mean_squared_error" is a pixel's, whose range is 2; "peak_signal_to_noise_ratio" in decibels is
    the mean of the pictures' own; "reconstruction_frechet_distance" lies in `read`'s features.
    """
    errors, moments = [], []
    for batch in batches(pictures, rows):
        filled = np.concatenate([batch, np.repeat(batch[-1:], rows - len(batch), axis=0)])
        made = fetched(reconstruct(filled))[: len(batch)]
        errors.append(np.square(made.astype(np.float64) - batch).mean((1, 2, 3)))
        moments.append([Moments.of(read(some)[1]) for some in (batch, made)])
    error = np.concatenate(errors)
    real, again = moments[0]
    for one, other in moments[1:]:
        real, again = real.joined(one), again.joined(other)
    return {
        "samples": float(len(error)),
        "mean_squared_error": float(error.mean()),
        "peak_signal_to_noise_ratio": float(10 * np.log10(4 / np.maximum(error, 1e-12)).mean()),
        "reconstruction_frechet_distance": frechet_distance(real, again),
    }
