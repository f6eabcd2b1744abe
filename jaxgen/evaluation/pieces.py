"""Samples drawn piece by piece, so that 50,000 of them never stand in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array

from jaxgen.experiment import Key
from jaxgen.parallel.sharding import fetched


def in_pieces(
    draw: Callable[[Key, int], Array], key: Key, count: int, piece: int = 1000
) -> Iterator[np.ndarray]:
    """`count` pictures of `draw(key, so many)`, up to `piece` at a time, on the host.

    `draw` is compiled once, or twice where `piece` doesn't divide `count`.
    """
    compiled = jax.jit(draw, static_argnums=1)
    for index, start in enumerate(range(0, count, piece)):
        some = min(piece, count - start)
        yield fetched(compiled(jax.random.fold_in(key, index), some))
