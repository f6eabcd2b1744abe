from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.classifier import Classifier
from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.image_scores import feature_scores, image_scores, reference
from jaxgen.parallel.mesh import MeshShape, make_mesh


def read(pictures):
    """Four pixels are the features, and the brightest of them the label."""
    flat = pictures.reshape(len(pictures), -1)
    return np.argmax(flat, -1), flat


def pictures(seed, count=200, centre=0.0):
    return np.random.default_rng(seed).normal(centre, 0.3, (count, 2, 2, 1)).astype(np.float32)


REAL = pictures(0)


def test_the_real_pictures_themselves_score_the_best_there_is():
    scores = image_scores(read, reference(read, REAL), REAL)
    assert scores["samples"] == scores["real_items"] == 200
    assert scores["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    assert scores["density"] == pytest.approx(1, abs=0.01)
    assert scores["sliced_wasserstein_distance"] == 0
    # Unbiased, so below 0 for a set against itself; and each picture's nearest is its own copy.
    assert scores["kernel_distance"] == pytest.approx(0, abs=3 * scores["kernel_distance_error"])
    assert scores["nearest_neighbour_accuracy"] == 0
    assert scores["classes"] == 4
    assert scores["class_divergence"] == pytest.approx(0, abs=1e-3)
    assert scores["class_reverse_divergence"] == pytest.approx(0, abs=1e-3)


def test_pieces_score_as_the_whole():
    drawn = pictures(1, 150, 0.1)
    whole = image_scores(read, reference(read, REAL), drawn)
    piecewise = image_scores(
        read, reference(read, iter(np.split(REAL, [3, 70]))), iter(np.split(drawn, [149]))
    )
    assert piecewise == whole
    assert whole["samples"] == 150
    assert whole["frechet_distance"] == pytest.approx(
        frechet_distance(Moments.of(read(REAL)[1]), Moments.of(read(drawn)[1]))
    )


def test_worse_pictures_score_worse():
    near = image_scores(read, reference(read, REAL), pictures(1))
    far = image_scores(read, reference(read, REAL), pictures(1, centre=0.5))
    for name in (
        "frechet_distance",
        "kernel_distance",
        "sliced_wasserstein_distance",
        "two_sample_accuracy",
        "nearest_neighbour_accuracy",
    ):
        assert far[name] > near[name]
    for name in ("precision", "recall", "density", "coverage", "two_sample_p_value"):
        assert far[name] < near[name]


def test_scores_of_a_network_are_the_same_on_eight_devices():
    network = Classifier(3, (8,), features=5)
    params = nn.unbox(jax.jit(network.init)(jax.random.key(1), pictures(0, 1)))["params"]
    look = partial(features.read, network, params, batch_size=64)
    alone = image_scores(look, reference(look, REAL), pictures(1))
    with jax.set_mesh(make_mesh(MeshShape())):
        together = image_scores(look, reference(look, REAL), pictures(1))
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_some_of_what_was_read_scores_as_if_it_were_read_alone():
    real, drawn = reference(read, REAL), reference(read, pictures(1))
    rows = np.arange(20, 80)
    assert feature_scores(real, drawn.rows(rows)) == image_scores(read, real, pictures(1)[rows])


def test_fewer_pictures_than_features_are_refused():
    with pytest.raises(UserError, match="and there are 4: draw more"):
        image_scores(read, reference(read, REAL), pictures(1, 4))
