"""The relative spread: closed forms, and what is refused."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.spread import relative_spread


def test_spread_is_the_factor_between_two_sets():
    real = np.random.default_rng(0).normal(size=(50, 4, 3)).astype(np.float32)
    assert relative_spread(real, 7 + real / 4) == pytest.approx(0.25, rel=1e-5)
    assert relative_spread(real, np.broadcast_to(real[:1], real.shape)) == 0


def test_two_modes_of_one_entry():
    real, samples = np.array([[-1.0], [1.0]]), np.array([[-1.0], [1.0], [1.0], [1.0]])
    assert relative_spread(real, samples) == pytest.approx(np.sqrt(3) / 2)


def test_sets_without_any_difference_are_refused():
    one, two = np.zeros((1, 2)), np.zeros((2, 2))
    with pytest.raises(UserError, match="at least 2"):
        relative_spread(two, one)
    with pytest.raises(UserError, match="differ from each other"):
        relative_spread(two, two)
