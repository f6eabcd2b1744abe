"""Batches made ahead of time by Grain, in threads or in processes of their own.

An element is a pure function of its step. So the number of workers changes nothing, and the
whole position in the data is one number: the step.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from absl import flags

from jaxgen.errors import UserError

if TYPE_CHECKING:  # the contracts live beside jax, which no worker should pay for
    from jaxgen.experiment import Source

Batch = dict[str, np.ndarray]


class Batches(Iterator[Batch]):
    """The local part of every step's batch, endless; a context manager that stops its workers.

    An error in a worker is raised here, by the `next` that would have returned its batch.
    """

    def __init__(self, elements: Any) -> None:
        self._elements = [elements]
        self._stop = weakref.finalize(self, _stop, self._elements)  # when forgotten, and at exit

    def __next__(self) -> Batch:
        return next(self._elements[0])

    def close(self) -> None:
        """Stops threads and processes; harmless when done twice."""
        self._stop()

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def load_batches(
    source: Source, first_step: int, rows: slice, repeats: int, workers: int = 0, prefetch: int = 2
) -> Batches:
    """The batches of steps `first_step`, `first_step` + 1, ... without end.

    Those of step s have leaves (repeats, rows.stop - rows.start, ...), repeat r being
    `source.batch(s·repeats + r, rows)`.

    source: must pickle if there are workers.
    rows: this process's rows of the whole batch.
    workers: processes to make batches in; 0 makes them in threads of this process, which is
        best for what lies in memory.
    prefetch: steps to be ahead (each worker, where there are some); 0, only without workers,
        makes each batch when asked.
    """
    if not 0 <= rows.start < rows.stop <= source.batch_size:
        raise UserError(
            f"rows {rows.start} to {rows.stop} are no part of a batch of {source.batch_size}"
        )
    if workers < 0 or prefetch < (workers > 0):
        raise UserError(f"{workers} workers can't be {prefetch} steps ahead: raise prefetch to 1")
    steps = grain.MapDataset.source(_Steps(source, first_step, rows, repeats))
    # Behind workers, threads would only queue for the same interpreter lock.
    threads = 0 if workers else min(prefetch, 2)
    batches = steps.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=0 if workers else prefetch)
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for absl's flags, which we don't use
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
            worker_init_fn=_live_as_long_as_the_parent,
        )
    return Batches(iter(batches))


def _stop(elements: list[Any]) -> None:
    elements[0].close()
    elements[0] = iter(())
    # Grain's iterators sit in a cycle; collected at exit, they would find their modules gone.
    gc.collect()


@dataclass(frozen=True)
class _Steps:
    """The steps from `first_step` on, as Grain's random-access source."""

    source: Source
    first_step: int
    rows: slice
    repeats: int

    def __len__(self) -> int:
        return sys.maxsize - self.first_step

    def __getitem__(self, index: int) -> Batch:
        first = (self.first_step + index) * self.repeats
        if self.repeats == 1:  # a view costs nothing, a stack would copy
            batch = self.source.batch(first, self.rows)
            return {name: leaf[None] for name, leaf in batch.items()}
        parts = [self.source.batch(first + repeat, self.rows) for repeat in range(self.repeats)]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _live_as_long_as_the_parent(worker: int, workers: int) -> None:
    """Leaves Ctrl-C to the parent, which still wants a batch to finish its step; dies with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)  # a parent killed outright closes no queue, and Grain would wait for ever

    threading.Thread(target=watch, daemon=True, name="jaxgen-parent-watch").start()
