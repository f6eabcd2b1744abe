"""The Inception distance as an evaluation: streamed moments, and what happens without weights."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation import inception_scores
from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.inception_scores import inception_evaluation, moments
from jaxgen.experiment import Model

REAL = np.random.default_rng(0).uniform(-1, 1, (100, 2, 2, 1)).astype(np.float32)
MODEL = Model({"spread": jnp.float32(0.5)}, {})
KEY = jax.random.key(0)


class Pixels(nn.Module):
    """The pixels are the features."""

    @nn.compact
    def __call__(self, pictures):
        flat = pictures.reshape(len(pictures), -1)
        return flat, flat


def draw(model, key, count):
    return model.params["spread"] * jax.random.uniform(key, (count, 2, 2, 1), minval=-1)


def test_the_moments_of_a_stream_are_those_of_the_whole():
    found = moments(Pixels(), {}, iter(np.split(REAL, [7, 30])), batch_size=16)
    expected = Moments.of(REAL.reshape(100, 4))
    assert found.count == 100
    np.testing.assert_allclose(found.covariance(), expected.covariance(), atol=1e-6)


def test_the_distance_is_that_of_the_drawn_pictures(monkeypatch):
    read = []
    monkeypatch.setattr(inception_scores, "FrechetFeatures", Pixels)
    monkeypatch.setattr(inception_scores, "read_weights", lambda path: read.append(path) or {})
    evaluation = inception_evaluation("weights.pth", REAL, draw, samples=60)
    scores = evaluation.score(MODEL, {}, KEY)
    assert evaluation.score(MODEL, {}, KEY) == scores
    assert read == ["weights.pth"]  # once
    drawn = np.asarray(draw(MODEL, jax.random.fold_in(KEY, 0), 60)).reshape(60, 4)
    expected = frechet_distance(Moments.of(REAL.reshape(100, 4)), Moments.of(drawn))
    assert scores == {
        "samples": 60,
        "real_items": 100,
        "frechet_distance": pytest.approx(expected, rel=1e-4),
    }


def test_without_weights_there_is_a_line_and_no_score(caplog):
    with caplog.at_level(logging.INFO, "jaxgen"):
        assert inception_evaluation("", REAL, draw).score(MODEL, {}, KEY) == {}
    assert "download https://github.com/" in caplog.text and "--inception" in caplog.text


def test_a_missing_file_is_told_before_the_training_and_refused_after(caplog, tmp_path):
    evaluation = inception_evaluation(str(tmp_path / "gone.pth"), REAL, draw)
    assert "gone.pth: until it is there, no FID" in caplog.text
    with pytest.raises(UserError, match="no Inception weights at"):
        evaluation.score(MODEL, {}, KEY)
