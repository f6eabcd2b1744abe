"""Data sets with random access, and the endless order in which training sees them.

Nothing here imports jax: loader workers read these objects in processes of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from jaxgen.data.shuffle import shuffled
from jaxgen.errors import UserError

if TYPE_CHECKING:  # the contracts live beside jax, which no worker should pay for
    from jaxgen.experiment import Items

Item = dict[str, np.ndarray]
Augment = Callable[[Item, np.random.Generator], Item]


@runtime_checkable
class RecordSource(Protocol):
    """What `tfds.data_source` returns: raw records, several at a time."""

    def __len__(self) -> int: ...

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Arrays:
    """Items in memory: leaves (items, ...), equally long.

    Raises UserError where there are no items or the leaves' lengths differ.
    """

    leaves: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        lengths = {name: len(leaf) for name, leaf in self.leaves.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"the arrays of a data set must be equally long, these have {lengths}")
        if not lengths or not next(iter(lengths.values())):
            raise UserError("a data set must hold at least one item, this one is empty")

    def __len__(self) -> int:
        return len(next(iter(self.leaves.values())))

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        return {name: leaf[indices] for name, leaf in self.leaves.items()}


@dataclass(frozen=True)
class Records:
    """Items read from a TFDS data source whenever they are asked for.

    records: what `jaxgen.data.datasets.load` returns.
    decode: one raw record to the arrays of one item; a function that pickles, for the workers.
    """

    records: RecordSource
    decode: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        raw = self.records.__getitems__([int(index) for index in indices])
        return _stacked([self.decode(record) for record in raw])


@dataclass(frozen=True)
class Kept:
    """Another data set, read and decoded whole once an eighth of it was asked for, then in memory.

    Before that items are read one by one, so that a run of a few steps doesn't wait for all of
    them, and an experiment that is built only for its network reads nothing. A loader process is
    sent no items, and reads its own.
    """

    items: Items
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    _asked: list[int] = field(default_factory=lambda: [0], init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        # Of the loader's threads one reads all items, and the others wait for it.
        with self._lock:
            self._asked[0] += len(indices)
            many = 8 * self._asked[0] >= len(self.items)
            items: Items = self._arrays if many else self.items
        return items[indices]

    def __reduce__(self) -> tuple[type[Kept], tuple[Items]]:
        return Kept, (self.items,)

    @cached_property
    def _arrays(self) -> Arrays:
        return in_memory(self.items)


@dataclass(frozen=True)
class Subset:
    """The items at `indices` of another data set, in that order."""

    items: Items
    indices: Int[np.ndarray, "rows"]

    def __post_init__(self) -> None:
        size = len(self.items)
        if not len(self.indices):
            raise UserError("a subset must hold at least one item, this one is empty")
        if self.indices.min() < 0 or self.indices.max() >= size:
            raise UserError(f"a subset's indices must lie in 0 .. {size - 1}, the items there are")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        return self.items[self.indices[indices]]


@dataclass(frozen=True)
class Computed:
    """Items that a function makes of another data set's, all at once when first needed, then kept.

    A look at a lone item works out no more than a batch, so what only asks for shapes waits for
    nothing. Loader processes get the finished arrays.

    items: at least one.
    compute: a batch of `rows` items to as many new ones; it need not pickle.
    """

    items: Items
    compute: Callable[[Item], Mapping[str, Any]]
    rows: int = 500
    _kept: list[Arrays] = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> Item:
        if len(indices) == 1 and not self._kept:
            made = self.compute(self.items[np.repeat(indices, self.rows)])
            return {name: np.asarray(leaf)[:1] for name, leaf in made.items()}
        return self._all()[indices]

    def __reduce__(self) -> tuple[Any, ...]:
        return Arrays, (self._all().leaves,)

    def _all(self) -> Arrays:
        with self._lock:  # loader threads ask together
            if not self._kept:
                parts = [
                    {name: np.asarray(leaf)[valid] for name, leaf in self.compute(batch).items()}
                    for batch, valid in whole_split(self.items, self.rows)
                ]
                self._kept.append(_joined(parts))
        return self._kept[0]


@dataclass(frozen=True)
class Shuffled:
    """A `Source`: endless batches in an order that the seed decides, a permutation an epoch.

    Row r of batch s is item k = s·batch_size + r of the endless sequence, so batches run across
    the ends of epochs and the number of items need not divide. Nothing depends on how many
    processes or workers read it.

    items: at least one.
    batch_size: rows in a whole batch, over all processes; at least 1.
    seed: not negative.
    augment: `(item, generator) -> item`, the generator decided by seed and k alone; a function
        that pickles.
    """

    items: Items
    batch_size: int
    seed: int
    augment: Augment | None = None
    _noise: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, not {self.seed}")
        if len(self.items) < 1:
            raise UserError("a data set must hold at least one item, this one is empty")
        noise = np.random.SeedSequence(self.seed, spawn_key=(1,)).generate_state(2, np.uint64)
        object.__setattr__(self, "_noise", noise)

    def batch(self, step: int, rows: slice) -> Item:
        """Rows `rows` of batch `step`: every leaf is (rows.stop - rows.start, ...)."""
        first = step * self.batch_size
        start, stop = first + rows.start, first + rows.stop
        batch = self.items[shuffled(self.seed, len(self.items), start, stop)]
        if self.augment is None:
            return batch
        changed = []
        for row, k in enumerate(range(start, stop)):
            # Philox counts blocks in its lowest word: the next one is the item's own.
            bits = np.random.Philox(counter=np.array([0, k, 0, 0], np.uint64), key=self._noise)
            item = {name: leaf[row] for name, leaf in batch.items()}
            changed.append(self.augment(item, np.random.Generator(bits)))
        return _stacked(changed)


class Deferred(Mapping[str, Any]):
    """An experiment's data, made when first looked into: rebuilding a model then reads none."""

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._made = cache(make)

    def __getitem__(self, name: str) -> Any:
        return self._made()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


def in_memory(items: Items, rows: int = 1024) -> Arrays:
    """All items, read and decoded once, `rows` at a time."""
    parts = [
        items[np.arange(start, min(start + rows, len(items)))]
        for start in range(0, len(items), rows)
    ]
    return _joined(parts)


def whole_split(
    items: Items, batch_size: int
) -> Iterator[tuple[Item, Bool[np.ndarray, "batch_size"]]]:
    """Every item once, in order, in batches of one shape, so that `jit` compiles once.

    Yields (batch, valid): the last batch repeats the last item where there are no more, and
    `valid` (batch_size,) is False there.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    size = len(items)
    for start in range(0, size, batch_size):
        indices = np.arange(start, start + batch_size)
        yield items[np.minimum(indices, size - 1)], indices < size


def _joined(parts: Sequence[Item]) -> Arrays:
    if not parts:
        raise UserError("a data set must hold at least one item, this one is empty")
    return Arrays({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _stacked(items: Sequence[Mapping[str, Any]]) -> Item:
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
