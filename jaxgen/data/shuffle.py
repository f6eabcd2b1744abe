"""A seeded permutation that is computed index by index, so that none is ever held in memory.

`grain.experimental.index_shuffle` does the same for one index a call; its cipher works on at least
16 bits and walks 45 times round to come back below 1,437, which is 24 µs an index. Here a whole
block is permuted at once, on a domain hardly larger than the data set: 0.2 µs an index.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Int64

_ROUNDS = 8
_BLOCK = 4096  # indices worked out at once: numpy's cost a call is then shared by many batches
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: consecutive epochs lie far apart


def shuffled(seed: int, size: int, start: int, stop: int) -> Int64[np.ndarray, "rows"]:
    """Indices at places `start` to `stop` of an endless sequence of permutations.

    Places e·size to (e+1)·size - 1 are one permutation of 0 .. size-1, decided by seed and e.
    seed: not negative. size: at least 1.
    """
    first, last = start // _BLOCK, (stop - 1) // _BLOCK
    if first == last:
        indices = _block(seed, size, first)
    else:
        indices = np.concatenate([_block(seed, size, n) for n in range(first, last + 1)])
    return indices[start - first * _BLOCK : stop - first * _BLOCK]


@functools.lru_cache(maxsize=16)
def _block(seed: int, size: int, number: int) -> Int64[np.ndarray, "places"]:
    """An alternating Feistel network on Z_a × Z_b with a·b barely above `size`.

    Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002): the generalized Feistel
    cipher, with cycle walking.
    """
    place = np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.int64)
    epoch, position = np.divmod(place.astype(np.uint64), np.uint64(size))
    seeds = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
    keys = _mixed(seeds[:, None] + epoch * _GOLDEN)
    height = math.isqrt(size - 1) + 1
    width = -(-size // height)
    index = _encrypted(position, keys, height, width)
    # The domain has up to height - 1 places too many: from those, walk on until back inside.
    while (outside := index >= size).any():
        index[outside] = _encrypted(index[outside], keys[:, outside], height, width)
    index.flags.writeable = False  # every batch that asks for this block gets a view of it
    return index.view(np.int64)


def _encrypted(place: np.ndarray, keys: np.ndarray, height: int, width: int) -> np.ndarray:
    row, column = np.divmod(place, np.uint64(width))
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        row = (row + _mixed(column + even) % np.uint64(height)) % np.uint64(height)
        column = (column + _mixed(row + odd) % np.uint64(width)) % np.uint64(width)
    return row * np.uint64(width) + column


def _mixed(word: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): 64 bits in, 64 bits out."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
