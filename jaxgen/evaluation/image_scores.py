"""Every score of a set of pictures against real ones, in the features of one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxgen.evaluation.features import Features, Labels, Pictures, batches
from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.kernel_distance import kernel_distance
from jaxgen.evaluation.modes import modes
from jaxgen.evaluation.precision_recall import density_coverage, precision_recall
from jaxgen.evaluation.sliced_wasserstein import sliced_wasserstein_distance
from jaxgen.evaluation.two_sample import classifier_two_sample_test, nearest_neighbour_test

# Pictures (count, height, width, channels) in [-1, 1] to labels and features, on the host:
# `functools.partial(features.read, network, params)`, or any other network behind one function.
Read = Callable[[np.ndarray], tuple[Labels, Features]]

PIECE = 1024  # pictures read at a time; none stays in memory


@dataclass(frozen=True)
class Reference:
    """What the scores keep of a set of pictures: no pictures, some 64 numbers of each."""

    labels: Labels
    features: Features


def reference(read: Read, pictures: Pictures) -> Reference:
    """Reads the real pictures, once for any number of models.

    pictures: all of them, items with an "image", or pieces as they come; float in [-1, 1].
    Raises `UserError` for pictures of another shape or range.
    """
    return _read_all(read, pictures)


def image_scores(read: Read, reference: Reference, samples: Pictures) -> dict[str, float]:
    """Scores of `samples` against `reference`, the same each time for the same samples.

    samples: all of them, or pieces as they are drawn; float in [-1, 1].

    All scores but "kernel_distance" are biased by how many samples there are, so "samples" and
    "real_items" belong to every figure that is written down. Raises `UserError` for pictures of
    another shape or range, and where there are not more of them than features.
    """
    drawn = _read_all(read, samples)
    kernel = kernel_distance(reference.features, drawn.features)
    precision, recall = precision_recall(reference.features, drawn.features)
    density, coverage = density_coverage(reference.features, drawn.features)
    told_apart = classifier_two_sample_test(reference.features, drawn.features)
    fellows = nearest_neighbour_test(reference.features, drawn.features)
    shown = modes(reference.labels, drawn.labels)
    return {
        "samples": float(len(drawn.features)),
        "real_items": float(len(reference.features)),
        "frechet_distance": frechet_distance(
            Moments.of(reference.features), Moments.of(drawn.features)
        ),
        "kernel_distance": kernel.value,
        "kernel_distance_error": kernel.error,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "sliced_wasserstein_distance": sliced_wasserstein_distance(
            reference.features, drawn.features
        ),
        "two_sample_accuracy": told_apart.accuracy,
        "two_sample_p_value": told_apart.p_value,
        "nearest_neighbour_accuracy": fellows.accuracy,
        "classes": float(shown.hit),
        "class_divergence": shown.divergence,
        "class_reverse_divergence": shown.reverse_divergence,
    }


def _read_all(read: Read, pictures: Pictures) -> Reference:
    parts = [read(batch) for batch in batches(pictures, PIECE)]
    return Reference(
        np.concatenate([labels for labels, _ in parts]),
        np.concatenate([features for _, features in parts]),
    )
