"""Stacks of three digits: decided by their number and the seed, their labels right."""

import pickle

import numpy as np
import pytest

from jaxgen.data.sources import Arrays
from jaxgen.data.stacked import Stacked
from jaxgen.errors import UserError

DIGITS = Arrays(
    {
        "image": np.repeat(np.arange(20) % 10, 4).reshape(20, 2, 2, 1).astype(np.float32),
        "label": np.arange(20, dtype=np.int32) % 10,
    }
)


def test_each_channel_is_a_digit_of_the_label_in_a_black_frame():
    items = Stacked(DIGITS, 50)[np.arange(50)]
    assert items["image"].shape == (50, 6, 6, 3) and items["image"].dtype == np.float32
    inside = items["image"][:, 2:-2, 2:-2]
    digits = items["label"][:, None] // [100, 10, 1] % 10
    np.testing.assert_array_equal(
        inside, np.broadcast_to(digits[:, None, None], inside.shape).astype(np.float32)
    )
    np.testing.assert_array_equal(Stacked(DIGITS, 50).labels(rows=7), items["label"])
    items["image"][:, 2:-2, 2:-2] = -1
    assert (items["image"] == -1).all()


def test_an_item_depends_on_the_seed_and_its_number_alone():
    whole, part = Stacked(DIGITS, 50), Stacked(DIGITS, 7)
    for name, leaf in part[np.arange(7)].items():
        np.testing.assert_array_equal(leaf, whole[np.arange(50)][name][:7])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(part))[np.arange(7)][name], leaf)
        np.testing.assert_array_equal(whole[np.array([6, 2])][name], leaf[[6, 2]])
    other = Stacked(DIGITS, 50, seed=1)[np.arange(50)]["label"]
    assert (other != whole[np.arange(50)]["label"]).any()


def test_all_digits_are_used_equally_often():
    labels = Stacked(DIGITS, 200)[np.arange(200)]["label"]
    counts = np.bincount((labels[:, None] // [100, 10, 1] % 10).reshape(-1))
    np.testing.assert_array_equal(counts, 60)


def test_no_stacks_are_refused():
    with pytest.raises(UserError, match="at least one stack"):
        Stacked(DIGITS, 0)
