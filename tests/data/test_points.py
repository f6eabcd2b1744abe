import numpy as np
import pytest

from jaxgen.data.points import gaussian_grid, gaussian_ring
from jaxgen.errors import UserError


def test_the_standard_places():
    ring, grid = gaussian_ring().centres, gaussian_grid().centres
    np.testing.assert_allclose(np.linalg.norm(ring, axis=1), 2.0)
    np.testing.assert_allclose(ring[:3:2], [[2, 0], [0, 2]], atol=1e-12)
    assert ring.shape == (8, 2) and grid.shape == (25, 2)
    expected = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert {tuple(place) for place in grid} == expected


def test_points_lie_about_their_modes_in_equal_shares():
    mixture = gaussian_grid(side=2, reach=1.0, deviation=0.05)
    points = mixture.points(4000, seed=3)
    everything = points[np.arange(4000)]
    away = everything["point"] - mixture.centres[everything["label"]]
    # Four standard errors: of a deviation σ/√(2n), of a mean σ/√n, of a count √(n·¼·¾).
    np.testing.assert_allclose(away.std(), 0.05, atol=4 * 0.05 / np.sqrt(2 * 8000))
    np.testing.assert_allclose(away.mean(0), 0, atol=4 * 0.05 / np.sqrt(4000))
    counts = np.bincount(everything["label"])
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(750)


def test_the_seed_decides_the_points():
    first, again, other = (
        gaussian_ring().points(5, seed)[np.arange(5)]["point"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and first.dtype == np.float32


def test_shapes_without_modes_are_refused():
    with pytest.raises(UserError, match="at least 1 mode, not 0"):
        gaussian_ring(modes=0)
    with pytest.raises(UserError, match="at least 2 modes a side, not 1"):
        gaussian_grid(side=1)
