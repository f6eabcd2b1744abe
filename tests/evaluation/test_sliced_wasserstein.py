import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxgen.errors import UserError
from jaxgen.evaluation.sliced_wasserstein import sliced_wasserstein_distance


def normal(seed, count=50, features=4):
    return np.random.default_rng(seed).normal(size=(count, features))


def test_a_set_is_at_no_distance_from_itself_in_any_order():
    values = normal(0)
    assert sliced_wasserstein_distance(values, values) == 0
    assert sliced_wasserstein_distance(values, values[::-1]) == 0


def test_a_shift_has_its_closed_form():
    """Along each direction the sets are apart by the shift's part in it: its length / √features."""
    values, shift = normal(0), np.array([3.0, 0.0, -4.0, 0.0])
    found = sliced_wasserstein_distance(values, values + shift, directions=20_000)
    assert found == pytest.approx(5 / np.sqrt(4), rel=0.02)
    on_a_line = sliced_wasserstein_distance(values[:, :1], values[:, :1] + 3)
    assert on_a_line == pytest.approx(3)


def test_a_scaling_has_its_closed_form():
    """W₂ of x and c·x is |c - 1| times the root of the mean square, along every direction."""
    values = normal(0, features=1)
    expected = 2 * np.sqrt(np.mean(values**2))
    assert sliced_wasserstein_distance(values, 3 * values) == pytest.approx(expected)


def test_sets_of_different_sizes():
    # Half of {0} goes to 2 and half to 4; then each third of {0, 0, 3} against halves of {0, 6}.
    one, two = np.array([[0.0]]), np.array([[2.0], [4.0]])
    assert sliced_wasserstein_distance(one, two) == pytest.approx(np.sqrt((4 + 16) / 2))
    three, halves = np.array([[3.0], [0.0], [0.0]]), np.array([[0.0], [6.0]])
    # The quantiles differ by 0 up to 1/2, by 6 from there to 2/3, by 3 after that.
    expected = np.sqrt(36 / 6 + 9 / 3)
    assert sliced_wasserstein_distance(three, halves) == pytest.approx(expected)
    repeated = np.repeat(normal(1), 3, axis=0)
    assert sliced_wasserstein_distance(normal(1), repeated) == pytest.approx(0, abs=1e-12)


def test_it_is_never_above_the_wasserstein_distance():
    """A projection brings items nearer; the whole distance is by the best matching there is."""
    one, other = normal(0, 12, 2), 0.5 + normal(1, 12, 2)
    squared = np.square(one[:, None] - other[None]).sum(-1)
    rows, columns = linear_sum_assignment(squared)
    assert 0 < sliced_wasserstein_distance(one, other) < np.sqrt(squared[rows, columns].mean())


def test_the_seed_chooses_the_directions_and_nothing_else_does():
    one, other = normal(0), normal(1)
    assert sliced_wasserstein_distance(one, other) == sliced_wasserstein_distance(one, other)
    assert sliced_wasserstein_distance(one, other) != sliced_wasserstein_distance(
        one, other, seed=1
    )


def test_an_empty_set_is_refused():
    with pytest.raises(UserError, match="at least 1 samples, and there are 0"):
        sliced_wasserstein_distance(normal(0), normal(0, 0))
