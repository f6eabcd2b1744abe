"""Guessing by frequency, on counts that are made by hand."""

import numpy as np
import pytest

from jaxgen.evaluation.token_frequencies import guessed_by_frequency


def test_nats_and_accuracy_are_those_of_the_counts():
    training = np.array([[0, 0, 0, 0, 1], [1, 2, 1, 0, 0]])  # of 0 six, of 1 three, of 2 one
    scores = guessed_by_frequency(training, np.array([1, 1, 2, 3]), 4, never=(0,))
    # Once more each, and no zeros: 4, 2 and 1 of seven.
    assert scores["nats"] == pytest.approx(-np.log([4 / 7, 4 / 7, 2 / 7, 1 / 7]).mean())
    assert scores["accuracy"] == 0.5
