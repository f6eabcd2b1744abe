"""Shows where a program stands when a step takes far longer than steps do."""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from etils import epath

log = logging.getLogger("jaxgen")

TIMES_THE_MEDIAN = 10.0
_AT_LEAST = 5.0  # seconds: nobody minds a step of 10 ms that takes 100


class StallWatch:
    """While entered, writes all threads' stacks once for each step that stalls.

    directory: where the stacks go, a file for each process and step.
    median: seconds that a step takes, None while that isn't known.
    process: which of the run's processes this is.
    at_least: seconds below which no step stalls.
    """

    def __init__(
        self,
        directory: epath.Path,
        median: Callable[[], float | None],
        process: int,
        at_least: float = _AT_LEAST,
    ) -> None:
        self._directory, self._median, self._process = directory, median, process
        self._at_least = at_least
        self._step, self._told = 0, -1
        self._since: float | None = None
        self._over = threading.Event()

    def begins(self, step: int) -> None:
        """The work on `step` begins now."""
        self._step, self._since = step, time.monotonic()

    def rests(self) -> None:
        """What comes now is no step: an evaluation, a checkpoint."""
        self._since = None

    def __enter__(self) -> StallWatch:
        """Starts to watch."""
        threading.Thread(target=self._watch, daemon=True, name="jaxgen-stalls").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the watch."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._at_least / 5):
            since, step, median = self._since, self._step, self._median()
            if since is None or median is None or step == self._told:
                continue
            limit = max(TIMES_THE_MEDIAN * median, self._at_least)
            if time.monotonic() - since > limit:
                self._told = step
                self._write(step, limit, median)

    def _write(self, step: int, limit: float, median: float) -> None:
        file = self._directory / f"process_{self._process}_step_{step}.txt"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with open(file, "w") as handle:
                faulthandler.dump_traceback(handle, all_threads=True)
        except OSError as error:  # on object storage, or a full disk: training goes on
            log.warning("The stacks could not be written to %s (%s).", file, error)
            return
        log.warning(
            "Step %d has taken more than %.1f s, and steps take %.2f s; where each thread stands "
            "is in %s.",
            step,
            limit,
            median,
            file,
        )
