"""Guessing tokens by how often they occur: what any model of text has to beat."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def guessed_by_frequency(
    training: Int[np.ndarray, "*rows"],
    targets: Int[np.ndarray, "asked"],
    vocabulary_size: int,
    never: tuple[int, ...] = (),
) -> dict[str, float]:
    """Scores of guessing each target by the tokens' frequencies in a training text alone.

    "nats" a target, each token counted once more than it occurs (Laplace), and "accuracy", how
    often it is the most frequent token.

    never: tokens that are no guess, such as padding.
    """
    counts = 1 + np.bincount(training.ravel(), minlength=vocabulary_size)
    counts[list(never)] = 0
    nats = -np.log(counts[targets] / counts.sum())
    return {"nats": float(nats.mean()), "accuracy": float(np.mean(targets == counts.argmax()))}
