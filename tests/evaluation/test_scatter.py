import numpy as np

from jaxgen.evaluation.scatter import INK, RING, mode_panels, scatter

NOTHING = np.zeros((0, 2))


def colour_at(panel, x, y, reach):
    """The pixel at a place of the plane, the title's eighth being on top."""
    height, width, _ = panel.shape
    column = round((x / reach + 1) / 2 * width)
    row = round((1 - y / reach) / 2 * width) + height - width
    return np.round(panel[row, column] * 255).astype(int)


def test_ink_lies_where_the_points_are_and_rings_where_the_modes():
    points = np.repeat([[1.0, 0.5]], 30, axis=0)
    panel = scatter(points, np.array([[-1.0, 1.0]]), 0.2, "", size=256)
    assert panel.shape == (288, 256, 3) and panel.min() >= 0 and panel.max() <= 1
    np.testing.assert_allclose(colour_at(panel, -1.0, 1.0, 1.2), RING, atol=3)
    assert colour_at(panel, 1.0, 0.5, 1.2).sum() < 400 < sum(RING)
    assert (colour_at(panel, -1.0, -1.0, 1.2) > 250).all()
    assert sum(INK) < 400


def test_points_outside_leave_no_ink_and_a_title_does():
    centre = np.array([[0.5, 0.0]])
    bare = scatter(NOTHING, centre, 0.1, "", size=64)
    outside = scatter(np.array([[3.0, 0.0], [0.0, -7.0]]), centre, 0.1, "", size=64)
    np.testing.assert_array_equal(bare, outside)
    titled = scatter(NOTHING, centre, 0.1, "8 modes", size=64)
    assert np.abs(titled - bare)[:8].max() > 0.3
    np.testing.assert_array_equal(titled[8:], bare[8:])


def test_each_set_of_points_has_a_panel_with_its_counts():
    centres = np.array([[1.0, 0.0], [-1.0, 0.0]])
    halves = np.array([[1.0, 0.02], [0.0, 0.0]])
    panels = mode_panels({"by_halves": halves, "both": centres}, centres, 0.01)
    assert len(panels) == 2
    expected = scatter(halves, centres, 0.03, "by halves: 1 modes, 50% good")
    np.testing.assert_array_equal(panels[0], expected)
