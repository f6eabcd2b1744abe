"""Every item of a data set once, in batches of one shape, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from jaxgen.experiment import Items


def whole_batches(
    items: Items, rows: int
) -> Iterator[tuple[dict[str, np.ndarray], Bool[np.ndarray, "rows"]]]:
    """Batches of `rows` items in order, and which of their rows are there.

    The last one repeats an item, so that one compiled function serves all. What is worked out of a
    batch is to be fetched before the next one is begun: on simulated devices, programs that run
    ahead starve each other's collectives of threads until XLA gives up.
    """
    for start in range(0, len(items), rows):
        indices = np.arange(start, start + rows)
        yield dict(items[np.minimum(indices, len(items) - 1)]), indices < len(items)


def perplexity(nats: float) -> float:
    """The exponential of nats a token: among so many equally likely ones it is as hard to say."""
    return math.exp(nats) if nats < 700 else math.inf
