import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.stacked import stacked_labels


def brightness(pictures):
    """A classifier of flat pictures: level v of 10 is -1 + v / 5."""
    assert pictures.shape[1:] == (4, 4, 1)
    return np.rint((pictures.mean((1, 2, 3)) + 1) * 5).astype(np.int64), pictures[:, 0, 0]


def test_channels_are_read_one_by_one_without_the_frame():
    labels = np.random.default_rng(0).integers(0, 1000, 700)  # more than one piece
    digits = labels[:, None] // [100, 10, 1] % 10
    pictures = np.full((700, 8, 8, 3), -1.0, np.float32)
    pictures[:, 2:-2, 2:-2] += digits[:, None, None] / 5
    np.testing.assert_array_equal(stacked_labels(brightness, pictures, frame=2), labels)
    pieces = (pictures[:300], pictures[300:])
    np.testing.assert_array_equal(stacked_labels(brightness, pieces, frame=2), labels)


def test_a_frame_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="Nothing is left of 4×4 pixels"):
        stacked_labels(brightness, np.zeros((2, 4, 4, 3), np.float32), frame=2)
