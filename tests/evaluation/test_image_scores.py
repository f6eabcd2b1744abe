import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.image_scores import image_scores, reference


def read(pictures):
    """Four pixels are the features, and the brightest of them the label."""
    features = pictures.reshape(len(pictures), -1)
    return np.argmax(features, -1), features


def pictures(seed, count=200, centre=0.0):
    return np.random.default_rng(seed).normal(centre, 0.3, (count, 2, 2, 1)).astype(np.float32)


REAL = pictures(0)


def test_the_real_pictures_themselves_score_the_best_there_is():
    scores = image_scores(read, reference(read, REAL), REAL)
    assert scores["samples"] == scores["real_items"] == 200
    assert scores["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    assert scores["density"] == pytest.approx(1, abs=0.01)


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
    for name in ("frechet_distance", "kernel_distance"):
        assert far[name] > near[name]
    for name in ("precision", "recall", "density", "coverage"):
        assert far[name] < near[name]


def test_fewer_pictures_than_features_are_refused():
    with pytest.raises(UserError, match="and there are 4: draw more"):
        image_scores(read, reference(read, REAL), pictures(1, 4))
