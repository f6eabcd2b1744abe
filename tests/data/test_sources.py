"""The data order is a function of seed and step, whoever asks for which rows."""

import itertools
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.sources import (
    Arrays,
    Computed,
    Kept,
    Records,
    Shuffled,
    Subset,
    in_memory,
    whole_split,
)
from jaxgen.errors import UserError


def numbered(size: int) -> Arrays:
    return Arrays({"index": np.arange(size), "x": np.arange(2 * size).reshape(size, 2)})


def noisy(item: dict, generator: np.random.Generator) -> dict:
    return {**item, "noise": generator.random(3)}


class Listed:
    """Raw records as a TFDS data source has them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, keys):
        return [{"number": int(key)} for key in keys]


def squared(record):
    return {"square": np.int64(record["number"]) ** 2}


sizes = st.integers(1, 70)


@settings(max_examples=80, deadline=None)
@given(
    size=sizes,
    batch=st.integers(1, 40),
    borders=st.sets(st.integers(1, 39), max_size=4),
    step=st.integers(0, 10**7),
    seed=st.integers(0, 2**40),
    augmented=st.booleans(),
)
def test_processes_join_to_the_single_process_batch(size, batch, borders, step, seed, augmented):
    source = Shuffled(numbered(size), batch, seed, noisy if augmented else None)
    whole = source.batch(step, slice(0, batch))
    cuts = [0, *sorted(border for border in borders if border < batch), batch]
    parts = [source.batch(step, slice(a, b)) for a, b in itertools.pairwise(cuts)]
    assert whole["index"].shape == (batch,)
    for name, leaf in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), leaf)


@settings(max_examples=60, deadline=None)
@given(size=sizes, batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_epoch_visits_each_item_once(size, batch, seed):
    source = Shuffled(numbered(size), batch, seed)
    steps = -(-3 * size // batch)
    seen = np.concatenate([source.batch(s, slice(0, batch))["index"] for s in range(steps)])
    for epoch in range(3):
        ordered = np.sort(seen[epoch * size : (epoch + 1) * size])
        np.testing.assert_array_equal(ordered, np.arange(size))


def test_leaves_of_an_item_stay_together():
    batch = Shuffled(numbered(50), 20, 3).batch(4, slice(0, 20))
    np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["index"])


def test_augmentation_differs_by_item_epoch_and_seed():
    a = Shuffled(numbered(4), 12, 0, noisy).batch(0, slice(0, 12))["noise"]
    b = Shuffled(numbered(4), 12, 1, noisy).batch(0, slice(0, 12))["noise"]
    assert len(np.unique(np.concatenate([a, b]))) == 72


def test_records_decode_and_come_into_memory():
    records = Records(Listed(23), squared)
    indices = np.array([5, 0, 5, 22])
    np.testing.assert_array_equal(records[indices]["square"], indices**2)
    whole = in_memory(records, rows=10)
    np.testing.assert_array_equal(whole.leaves["square"], np.arange(23) ** 2)
    copy = pickle.loads(pickle.dumps(Shuffled(records, 4, 0)))
    np.testing.assert_array_equal(
        copy.batch(3, slice(0, 4))["square"],
        Shuffled(whole, 4, 0).batch(3, slice(0, 4))["square"],
    )


def test_kept_items_are_read_once_and_not_before_they_are_needed():
    read = []

    def decode(record):
        read.append(record["number"])
        return squared(record)

    kept = Kept(Records(Listed(9), decode))
    assert len(kept) == 9 and read == []
    for _ in range(2):
        np.testing.assert_array_equal(kept[np.array([8, 2])]["square"], [64, 4])
    assert read == list(range(9))
    ordered = Shuffled(Kept(numbered(9)), 4, 0).batch(5, slice(0, 4))
    np.testing.assert_array_equal(
        ordered["x"], Shuffled(numbered(9), 4, 0).batch(5, slice(0, 4))["x"]
    )


def test_a_few_of_many_items_are_read_alone():
    read = []

    def decode(record):
        read.append(record["number"])
        return squared(record)

    kept = Kept(Records(Listed(40), decode))
    for item in (7, 7, 30, 2):
        np.testing.assert_array_equal(kept[np.array([item])]["square"], [item**2])
    assert read == [7, 7, 30, 2]
    for item in (39, 7):  # with the first of them an eighth has been asked for
        np.testing.assert_array_equal(kept[np.array([item])]["square"], [item**2])
    assert read == [7, 7, 30, 2, *range(40)]


def test_of_many_threads_one_reads_what_is_kept():
    reads = []

    def decode(record):
        time.sleep(0.01)
        reads.append(record["number"])
        return squared(record)

    kept = Kept(Records(Listed(5), decode))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(kept.__getitem__, [np.array([3])] * 8):
            np.testing.assert_array_equal(found["square"], [9])
    assert reads == list(range(5))


def test_kept_items_pickle_for_the_workers():
    kept = Kept(numbered(5))
    empty = len(pickle.dumps(kept))
    kept[np.arange(5)]
    assert len(pickle.dumps(kept)) == empty  # what is kept stays here
    again = pickle.loads(pickle.dumps(kept))
    np.testing.assert_array_equal(again[np.arange(5)]["x"], kept[np.arange(5)]["x"])


def test_subset_of_a_subset():
    items = Subset(Subset(numbered(10), np.array([9, 3, 4, 1])), np.array([3, 0]))
    assert len(items) == 2
    np.testing.assert_array_equal(items[np.array([0, 1])]["index"], [1, 9])


@settings(max_examples=40, deadline=None)
@given(size=sizes, batch=st.integers(1, 80))
def test_a_whole_split_comes_once_and_in_order(size, batch):
    batches = list(whole_split(numbered(size), batch))
    assert all(part["index"].shape == valid.shape == (batch,) for part, valid in batches)
    seen = np.concatenate([part["index"][valid] for part, valid in batches])
    np.testing.assert_array_equal(seen, np.arange(size))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arrays({"a": np.zeros(3), "b": np.zeros(2)}), "equally long"),
        (lambda: Arrays({"a": np.zeros((0, 2))}), "at least one item"),
        (lambda: Arrays({}), "at least one item"),
        (lambda: Subset(numbered(3), np.array([0, 3])), "0 .. 2"),
        (lambda: Subset(numbered(3), np.array([-1])), "0 .. 2"),
        (lambda: Subset(numbered(3), np.array([], np.int64)), "at least one item"),
        (lambda: Shuffled(numbered(3), 0, 0), "batch_size"),
        (lambda: Shuffled(numbered(3), 1, -1), "seed"),
        (lambda: Shuffled(Records(Listed(0), squared), 1, 0), "at least one item"),
        (lambda: in_memory(Records(Listed(0), squared)), "at least one item"),
        (lambda: next(whole_split(numbered(3), 0)), "batch_size"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


class Doubling:
    """A function of batches that notes how many it was given."""

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        assert len(batch["x"]) == 4
        return {"y": 2 * batch["x"]}


def test_computed_items_are_worked_out_once_and_only_when_needed():
    double = Doubling()
    items = Computed(Arrays({"x": np.arange(10)}), double, rows=4)
    assert len(items) == 10 and double.calls == 0
    np.testing.assert_array_equal(items[np.array([7])]["y"], [14])
    assert double.calls == 1  # a lone item costs one batch
    np.testing.assert_array_equal(items[np.array([9, 0, 3])]["y"], [18, 0, 6])
    assert double.calls == 1 + 3
    np.testing.assert_array_equal(items[np.array([7])]["y"], [14])
    np.testing.assert_array_equal(items[np.arange(10)]["y"], 2 * np.arange(10))
    assert double.calls == 1 + 3


def test_computed_items_pickle_as_plain_arrays():
    items = Computed(Arrays({"x": np.arange(5)}), lambda batch: {"y": 2 * batch["x"]}, rows=4)
    copy = pickle.loads(pickle.dumps(items))
    assert isinstance(copy, Arrays)
    np.testing.assert_array_equal(copy.leaves["y"], 2 * np.arange(5))
