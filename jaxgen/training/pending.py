"""Steps that are under way on the devices, and how long each took."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from jaxgen.errors import UserError

# So many steps may be under way before the loop waits for the oldest; it keeps the devices busy,
# and the batches in memory few.
STEPS_UNDER_WAY = 16


class NotFinite(UserError):
    """A loss or a gradient was NaN or infinite."""

    def __init__(self, step: int, metrics: Mapping[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
        super().__init__(
            f"Step {step} was not finite ({', '.join(wrong)}), so training stopped; earlier "
            "checkpoints are kept. Try a lower learning rate, a longer warm-up or clipping."
        )


class Pending:
    """Steps whose losses nobody has looked at yet.

    most: so many at most; 0 waits for each.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._steps: deque[tuple[int, dict[str, Any], Any]] = deque()
        self._seconds: deque[float] = deque(maxlen=1000)
        self._last = time.perf_counter()

    def add(self, step: int, metrics: dict[str, Any], finite: Any) -> None:
        """One more step, begun and not waited for."""
        self._steps.append((step, metrics, finite))

    @property
    def idle(self) -> bool:
        """Whether the devices have nothing left to do."""
        return not self._steps or self._steps[-1][2].is_ready()

    def check(self, wait: bool = False) -> None:
        """Raises `NotFinite` for the first step that wasn't.

        Looks only at steps that are done, unless told to wait for all, or too many are under way.
        """
        done = 0
        while self._steps:
            step, metrics, finite = self._steps[0]
            if not (wait or len(self._steps) > self._most or finite.is_ready()):
                break
            if not finite:
                raise NotFinite(step, {name: float(value) for name, value in metrics.items()})
            self._steps.popleft()
            done += 1
        if done:
            now = time.perf_counter()
            # Those that were found done together took as long as each other, as far as we know.
            self._seconds.extend([(now - self._last) / done] * done)
            self._last = now

    def skip_time(self) -> None:
        """Leaves what has happened since the last step out of the next one's seconds."""
        self._last = time.perf_counter()

    def median(self) -> float | None:
        """Seconds a step, once enough of them are known to say so."""
        return statistics.median(self._seconds) if len(self._seconds) >= 10 else None

    def percentiles(self) -> tuple[float, float, float]:
        """The median, the 95th percentile and the longest of the last steps' seconds."""
        ordered = sorted(self._seconds) or [math.nan]
        last = len(ordered) - 1
        return ordered[round(0.5 * last)], ordered[round(0.95 * last)], ordered[last]
