"""How long a sample takes. Kept apart from the scores, which the seed determines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxgen.errors import UserError
from jaxgen.experiment import Key


def seconds_per_sample(draw: Callable[[Key], Any], count: int, key: Key, rounds: int = 3) -> float:
    """Wall-clock seconds for one of `count` samples, the median of `rounds` draws.

    draw: `key -> arrays`, `count` samples at once; the first draw, which compiles, isn't counted.
    The last array is waited for. It belongs into no metric: no two runs agree on it.

    Raises `UserError` where `count` or `rounds` is below 1.
    """
    if count < 1 or rounds < 1:
        raise UserError(f"{count} samples in {rounds} rounds can't be timed: take at least 1.")
    seconds = []
    for some in jax.random.split(key, rounds + 1):
        begin = time.perf_counter()
        jax.block_until_ready(draw(some))
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]) / count
