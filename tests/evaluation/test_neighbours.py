import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.neighbours import nearest, radii

VALUES = np.random.default_rng(0).integers(-9, 9, (31, 3)).astype(np.float32)
QUERIES = np.random.default_rng(1).integers(-9, 9, (17, 3)).astype(np.float32)


def distances(one, other):
    return np.linalg.norm(one[:, None].astype(float) - other[None].astype(float), axis=-1)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_radii_reach_to_the_kth_fellow(chunk):
    expected = np.sort(distances(VALUES, VALUES), axis=1)[:, 3]
    np.testing.assert_allclose(np.sqrt(radii(VALUES, 3, chunk)), expected, atol=1e-6)


@pytest.mark.parametrize("sizes", [(31,), (1, 30), (10, 10, 11)])
def test_the_nearest_of_pieces_is_the_nearest_of_all(sizes):
    expected = distances(QUERIES, VALUES)
    found = nearest(QUERIES, iter(np.split(VALUES, np.cumsum(sizes)[:-1])), chunk=4)
    np.testing.assert_array_equal(found.indices, expected.argmin(1))
    np.testing.assert_allclose(found.distances, expected.min(1), atol=1e-6)


def test_far_from_zero_nothing_is_lost_to_float32():
    values = (1e4 + VALUES).astype(np.float32)
    found = nearest((1e4 + QUERIES).astype(np.float32), values)
    np.testing.assert_allclose(found.distances, distances(QUERIES, VALUES).min(1), atol=1e-3)


def test_nothing_to_be_near_to_is_refused():
    with pytest.raises(UserError, match="at least one item"):
        nearest(QUERIES, [])
