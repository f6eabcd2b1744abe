"""Scores of what an autoencoder keeps, on reconstructions that are known."""

import numpy as np
import pytest

from jaxgen.evaluation.frechet import Moments, frechet_distance
from jaxgen.evaluation.reconstruction import reconstruction_scores

PICTURES = np.random.default_rng(0).uniform(-0.5, 0.5, (23, 2, 2, 1)).astype(np.float32)


def read(pictures):
    return np.zeros(len(pictures), int), pictures.reshape(len(pictures), -1)[:, :3]


def test_a_perfect_reconstruction_has_no_error():
    scores = reconstruction_scores(read, lambda pictures: pictures, PICTURES, rows=5)
    assert scores["samples"] == 23 and scores["mean_squared_error"] == 0
    assert scores["reconstruction_frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert scores["peak_signal_to_noise_ratio"] == pytest.approx(10 * np.log10(4e12))


def test_a_shift_is_measured_the_same_in_any_batches():
    for rows in (4, 23, 100):
        scores = reconstruction_scores(read, lambda pictures: pictures + 0.1, PICTURES, rows)
        assert scores["mean_squared_error"] == pytest.approx(0.01, rel=1e-5)
        assert scores["peak_signal_to_noise_ratio"] == pytest.approx(10 * np.log10(400), rel=1e-5)
        whole = frechet_distance(
            *(Moments.of(read(PICTURES + shift)[1]) for shift in (np.float32(0), np.float32(0.1)))
        )
        assert scores["reconstruction_frechet_distance"] == pytest.approx(whole, rel=1e-4)
        assert whole == pytest.approx(0.03, rel=1e-3)
