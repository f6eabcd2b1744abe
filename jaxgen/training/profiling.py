"""How a run uses its machines: traces, step times by process, memory, and operations."""

from __future__ import annotations

import logging
import resource
import sys
from types import TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxgen.errors import UserError
from jaxgen.parallel.operations import Operations
from jaxgen.parallel.peak_operations import peak_operations
from jaxgen.training.pending import Pending

log = logging.getLogger("jaxgen")


def steps_to_profile(said: str) -> tuple[int, int] | None:
    """ "10:12" as the first and the last step of a trace; "" is none.

    Raises:
        UserError: if it isn't START:STOP, counted from 1.
    """
    if not said:
        return None
    start, _, stop = said.partition(":")
    if not (start.isdigit() and stop.isdigit() and 1 <= int(start) <= int(stop)):
        raise UserError(
            f"--profile {said} is no START:STOP: give the first and the last step to trace, "
            "counted from 1, like 10:12."
        )
    return int(start), int(stop)


class Trace:
    """Writes a trace of some steps for XProf (`tensorboard --logdir RUN/profile`).

    steps: the first and the last of them, or None.
    done, last: the step that training goes on from, and its last one.
    """

    def __init__(
        self, directory: epath.Path, steps: tuple[int, int] | None, done: int, last: int
    ) -> None:
        self._directory, self._steps, self._tracing = directory, steps, False
        if steps is not None and not done < steps[0] <= last:
            log.warning(
                "There will be no trace: step %d, its first, is not among the steps %d to %d that "
                "are still to come.",
                steps[0],
                done + 1,
                last,
            )

    def __enter__(self) -> Trace:
        """Begins nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends a trace that training ended in the middle of."""
        self._stop()

    def before(self, step: int) -> None:
        """Starts the trace if `step` is its first."""
        if self._steps is not None and step == self._steps[0]:
            self._tracing = True
            jax.profiler.start_trace(str(self._directory))

    def after(self, step: int) -> None:
        """Writes the trace if `step`, which has been begun, is its last."""
        if self._steps is not None and step == self._steps[1]:
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.effects_barrier()
            jax.profiler.stop_trace()


def step_seconds(pending: Pending) -> dict[str, Any]:
    """Percentiles of the last steps' seconds, a list each with one a process."""
    mine = np.asarray(pending.percentiles(), np.float32)
    everyone = mine[None] if jax.process_count() == 1 else multihost_utils.process_allgather(mine)
    names = ("step_seconds_median", "step_seconds_95th", "step_seconds_longest")
    return {
        name: [float(value) for value in column]
        for name, column in zip(names, np.asarray(everyone).T, strict=True)
    }


def utilization(step: Operations, seconds: float, mesh: Mesh) -> dict[str, float]:
    """How much of what the devices could do the model's own arithmetic takes.

    seconds: that a step takes. "mfu" (model operations' utilization, Chowdhery et al. 2022,
    appendix B; recomputed operations don't count) is there where the devices' peak is known.
    """
    done = step.model / seconds / mesh.size
    found = {"operations_per_second_per_device": done}
    peak = peak_operations(mesh.devices.flat[0].device_kind)
    if peak is not None:
        found["mfu"] = done / peak
    return found


def high_water(mesh: Mesh) -> dict[str, float]:
    """The most memory that any of this process's devices has held, in bytes.

    Where devices don't say, as CPUs, it is this process's own.
    """
    stats = [device.memory_stats() for device in mesh.local_devices]
    peaks = [said["peak_bytes_in_use"] for said in stats if said and "peak_bytes_in_use" in said]
    if peaks:
        return {"device_memory_peak_bytes": float(max(peaks))}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"process_memory_peak_bytes": float(peak)}
