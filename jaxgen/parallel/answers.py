"""What processes say in each step, known to all of them at the same one: a signal, for instance."""

from __future__ import annotations

from collections import deque
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Answers:
    """The largest of what the processes say, known to all of them at the same step.

    later: so many steps pass before an answer is looked at, so that none is waited for.
    """

    def __init__(self, mesh: Mesh, later: int) -> None:
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._shape = (mesh.size,)
        self._later = later
        self._asked: deque[Any] = deque()
        whole = NamedSharding(mesh, PartitionSpec())
        self._largest = jax.jit(lambda said: said.max(), out_shardings=whole)

    def ask(self, value: int) -> int:
        """Says `value`; the largest of what was said `later` steps ago, 0 before that.

        All processes must ask in every step, in the same order as everything else they do together.
        """
        if jax.process_count() == 1:
            return value
        self._asked.append(self._begin(value))
        return int(self._asked.popleft()) if len(self._asked) > self._later else 0

    def last(self, value: int) -> int:
        """Says `value`; the largest of it and all that hasn't been looked at."""
        if jax.process_count() == 1:
            return value
        self._asked.append(self._begin(value))
        return max(int(self._asked.popleft()) for _ in range(len(self._asked)))

    def _begin(self, value: int) -> Any:
        def part(index: Any) -> np.ndarray:
            return np.full(len(range(*index[0].indices(self._shape[0]))), value, np.int32)

        return self._largest(jax.make_array_from_callback(self._shape, self._sharding, part))
