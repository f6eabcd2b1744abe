"""A text in streams: each token once, in order, row by row."""

import numpy as np
import pytest

from jaxgen.data.streams import Streams
from jaxgen.errors import UserError


@pytest.mark.parametrize(("size", "length", "rows"), [(101, 7, 4), (57, 5, 3), (12, 11, 1)])
def test_every_token_but_the_first_is_predicted_once_by_the_one_before(size, length, rows):
    streams = Streams(np.arange(size), length, rows)
    seen = []
    ends = {}
    for step in range(streams.parts):
        batch = streams.batch(step, slice(0, rows))
        assert batch["begins"].tolist() == [step == 0] * rows
        for row in range(rows):
            mask = batch["mask"][row]
            predicted = batch["tokens"][row, 1:][mask]
            seen += predicted.tolist()
            np.testing.assert_array_equal(batch["tokens"][row, :-1][mask], predicted - 1)
            if step and mask.any():
                assert batch["tokens"][row, 0] == ends[row]  # the row goes on
            ends[row] = batch["tokens"][row, -1]
    assert sorted(seen) == list(range(1, size))
    again = streams.batch(streams.parts, slice(0, rows))
    np.testing.assert_array_equal(again["tokens"], streams.batch(0, slice(0, rows))["tokens"])


def test_processes_read_rows_of_the_same_batch():
    streams = Streams(np.arange(101), 7, 4)
    whole, part = streams.batch(2, slice(0, 4)), streams.batch(2, slice(1, 3))
    for name, leaf in part.items():
        np.testing.assert_array_equal(leaf, whole[name][1:3])


def test_a_text_shorter_than_its_truncation():
    with pytest.raises(UserError, match="4 streams of 5, shorter than the 7 of a step"):
        Streams(np.arange(20), 7, 4)
    with pytest.raises(UserError, match="at least 1"):
        Streams(np.arange(20), 0, 4)
