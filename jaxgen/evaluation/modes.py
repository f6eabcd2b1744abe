"""Which modes samples show, and in which shares, going by a classifier or by known places."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxgen.errors import UserError
from jaxgen.evaluation.neighbours import enough

Labels = Int[np.ndarray, "count"]
Counts = Int[np.ndarray, "classes"]


class Modes(NamedTuple):
    """hit: classes that the samples show; total: those that the real items have.

    divergence: KL(real ‖ samples) between the class shares, in nats; grows with what is missing.
    reverse_divergence: KL(samples ‖ real); grows with what there is too much of.
    """

    hit: int
    total: int
    divergence: float
    reverse_divergence: float


def modes(
    real: Labels,
    samples: Int[np.ndarray, "samples"],
    confidences: Float[np.ndarray, "samples"] | None = None,
    least_confidence: float = 0.0,
    least_share: float = 0.0,
) -> Modes:
    """Counts modes as on stacked MNIST: Metz et al. 2017, Srivastava et al. 2017 (VEEGAN).

    Their number is `hit`, over samples of any confidence, and their "reverse KL" is
    `reverse_divergence`, the real shares being known, or what the classifier says of real items. A
    class that one set lacks would make a divergence infinite, so half an item is added to each
    class of the set on its right side (Krichevsky & Trofimov 1981). Both fall as items are added.

    real, samples: class numbers.
    confidences: of the samples' classes; those below `least_confidence` show no class.
    least_share: a class is hit by at least one sample, and by this much of its real share.

    Raises `UserError` where a set is empty, or `least_confidence` has nothing to go by.
    """
    enough("The mode count", 1, real_items=len(real), samples=len(samples))
    if confidences is not None:
        samples = samples[confidences >= least_confidence]
    elif least_confidence:
        raise UserError("least_confidence says nothing without confidences: give both.")
    classes = np.union1d(real, samples)
    of_real, of_samples = _counts(real, classes), _counts(samples, classes)
    hit = (of_real > 0) & (of_samples > 0)
    hit &= of_samples / max(1, len(samples)) >= least_share * (of_real / len(real))
    return Modes(
        hit=int(hit.sum()),
        total=int(np.count_nonzero(of_real)),
        divergence=_divergence(of_real, of_samples),
        reverse_divergence=_divergence(of_samples, of_real),
    )


class PlacedModes(NamedTuple):
    """hit: modes with a good sample; total: all modes.

    good: share of the samples that are near some mode, in [0, 1].
    least: of good samples in the rarest mode, counted in equal shares: 1 is even, 0 a lost mode.
    """

    hit: int
    total: int
    good: float
    least: float


def placed_modes(
    samples: Float[np.ndarray, "samples dimensions"],
    centres: Float[np.ndarray, "modes dimensions"],
    deviation: float,
    reach: float = 3.0,
) -> PlacedModes:
    """Modes found and share of good samples, as Srivastava et al. 2017 (VEEGAN) count them.

    A sample is good ("high quality") within `reach` standard deviations of the nearest centre, and
    a mode is found that is nearest to a good sample; Lin et al. 2018 (PacGAN) take 2,500 samples.

    deviation: of every mode, in the samples' units.

    Raises `UserError` where there are no samples.
    """
    enough("The mode count", 1, samples=len(samples))
    away = np.linalg.norm(samples[:, None] - centres[None], axis=-1)
    good = away.min(1) <= reach * deviation
    counts = np.bincount(away.argmin(1)[good], minlength=len(centres))
    return PlacedModes(
        hit=int(np.count_nonzero(counts)),
        total=len(centres),
        good=float(good.mean()),
        least=float(counts.min() * len(centres) / max(1, counts.sum())),
    )


def class_entropy(labels: Labels, classes: int) -> float:
    """The entropy of the classes' shares, in nats: log(classes) where all are equally many.

    labels: class numbers in 0 .. classes - 1; classes that none of them has add nothing.

    Raises `UserError` where there are no labels, or one lies outside.
    """
    enough("The class entropy", 1, labels=len(labels))
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"The class entropy of {classes} classes was given labels from {labels.min()} to "
            f"{labels.max()}: they must lie in 0 .. {classes - 1}."
        )
    counts = np.bincount(labels)
    shares = counts[counts > 0] / len(labels)
    return float(-np.sum(shares * np.log(shares)))


def _divergence(one: Counts, other: Counts) -> float:
    shares = one[one > 0] / max(1, one.sum())
    smoothed = (other[one > 0] + 0.5) / (other.sum() + len(other) / 2)
    return float(np.sum(shares * np.log(shares / smoothed)))


def _counts(labels: Labels, classes: Counts) -> Counts:
    return np.bincount(np.searchsorted(classes, labels), minlength=len(classes))
