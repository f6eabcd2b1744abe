"""Can anything tell samples from real items? Classifiers that try, and how surely they can."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from jaxgen.evaluation.neighbours import distance_blocks, enough, radii

Features = Float[np.ndarray, "count features"]


class TwoSampleTest(NamedTuple):
    """accuracy: on held-out items, 0.5 is chance; p_value: how likely chance does as well."""

    accuracy: float
    p_value: float


class NearestNeighbourTest(NamedTuple):
    """accuracy: the share of all items whose nearest fellow is of their own set; 0.5 is chance.

    real, samples: the same share among either. Both near 0: the samples are copies; real low and
    samples high: the samples crowd together.
    """

    accuracy: float
    real: float
    samples: float


def classifier_two_sample_test(
    real: Features,
    samples: Float[np.ndarray, "samples features"],
    hidden: int = 20,
    epochs: int = 100,
    seed: int = 0,
) -> TwoSampleTest:
    """Trains a small network to tell the sets apart on half of both, tests it on the other half.

    Lopez-Paz & Oquab 2017, section 3 and their network: one hidden layer of `hidden` relus, Adam,
    `epochs` epochs. Under the null hypothesis the number of right answers among n is binomial with
    a half, for large n normal with variance n/4. Of the larger set only as many items are used as
    the smaller has, so that chance is a half.

    seed: decides the halves and the network. Raises `UserError` for fewer than 20 items in a set.
    """
    enough("The two-sample test", 20, real_items=len(real), samples=len(samples))
    generator = np.random.default_rng(seed)
    size = min(len(real), len(samples))
    half = size // 2
    # Standing side by side, so that both halves hold as many of either set.
    chosen = [
        np.asarray(some, np.float64)[generator.permutation(len(some))[:size]]
        for some in (real, samples)
    ]
    train = np.concatenate([some[:half] for some in chosen])
    test = np.concatenate([some[half:] for some in chosen])
    train_labels = np.repeat([0, 1], half)
    test_labels = np.repeat([0, 1], size - half)

    scaler = StandardScaler().fit(train)
    network = MLPClassifier((hidden,), max_iter=epochs, random_state=seed)
    with warnings.catch_warnings():
        # So many epochs are the test's own number; it needn't have come to rest.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(scaler.transform(train), train_labels)
    accuracy = float(np.mean(network.predict(scaler.transform(test)) == test_labels))
    deviations = (accuracy - 0.5) * 2 * math.sqrt(len(test))
    return TwoSampleTest(accuracy, 0.5 * math.erfc(deviations / math.sqrt(2)))


def nearest_neighbour_test(
    real: Features,
    samples: Float[np.ndarray, "samples features"],
    chunk: int = 1024,
    seed: int = 0,
) -> NearestNeighbourTest:
    """Leave-one-out accuracy of the nearest neighbour among both sets together.

    Lopez-Paz & Oquab 2017; as a score of generative models, Xu et al. 2018 ("An empirical study on
    evaluation metrics of generative adversarial networks"). Of the larger set only as many items
    are used as the smaller has. Of several nearest items a fellow of the other set wins.

    seed: chooses them. Raises `UserError` for fewer than 2 items in a set.
    """
    enough("The nearest-neighbour test", 2, real_items=len(real), samples=len(samples))
    generator = np.random.default_rng(seed)
    size = min(len(real), len(samples))
    real, samples = (
        some if len(some) == size else some[np.sort(generator.permutation(len(some))[:size])]
        for some in (real, samples)
    )
    across_real, across_samples = np.full(size, np.inf), np.empty(size)
    for rows, block in distance_blocks(samples, real, chunk):
        across_samples[rows] = block.min(1)
        across_real = np.minimum(across_real, block.min(0))
    of_real = float(np.mean(radii(real, 1, chunk) < across_real))
    of_samples = float(np.mean(radii(samples, 1, chunk) < across_samples))
    return NearestNeighbourTest((of_real + of_samples) / 2, of_real, of_samples)
