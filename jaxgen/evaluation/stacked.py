"""What stacked grey pictures show, going by a classifier of the single ones."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from jaxgen.errors import UserError
from jaxgen.evaluation.features import Pictures, batches
from jaxgen.evaluation.image_scores import Read

_PIECE = 512  # stacks read at a time


def stacked_labels(
    read: Read, pictures: Pictures, classes: int = 10, frame: int = 0
) -> Int[np.ndarray, "count"]:
    """The label of each stack: its channels' labels, written as one number to base `classes`.

    As modes of stacked MNIST are told apart (Metz et al. 2017), each channel by itself.

    read: one-channel pictures to (labels, features), labels 0 .. classes - 1.
    pictures: (count, height, width, channels) in [-1, 1], all of them or pieces as they are drawn.
    frame: pixels left out on each side, that the classifier has not been trained with.

    Raises `UserError` for pictures of another shape or range, or hardly larger than their frame.
    """
    parts = []
    for piece in batches(pictures, _PIECE):
        count, height, width, channels = piece.shape
        if min(height, width) <= 2 * frame:
            raise UserError(
                f"Nothing is left of {height}×{width} pixels within a frame of {frame}: take a "
                "narrower one."
            )
        # Clipped, as they are saved and shown: a generator may go beyond.
        inside = np.clip(piece[:, frame : height - frame, frame : width - frame], -1, 1)
        layers = np.moveaxis(inside, -1, 1).reshape(-1, *inside.shape[1:3], 1)
        labels, _ = read(layers)
        parts.append(labels.reshape(count, channels) @ classes ** np.arange(channels)[::-1])
    return np.concatenate(parts)
