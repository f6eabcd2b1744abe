"""What a run writes down while it trains, and the line a person watches."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

import jax
from etils import epath
from tensorboardX import SummaryWriter

from jaxgen.training.goodput import account

log = logging.getLogger("jaxgen")


class MetricsWriter:
    """`metrics.jsonl`, `timing.jsonl` and TensorBoard, for one process to write.

    `metrics.jsonl` holds only what the seed determines, so two runs can be compared by line.
    """

    def __init__(self, directory: epath.Path, step: int) -> None:
        """Opens the files to go on after `step`; lines past it are dropped."""
        directory.mkdir(parents=True, exist_ok=True)
        remote = is_remote(directory)
        self._metrics = Lines(directory / "metrics.jsonl", step, appends=not remote)
        self._timing = Lines(directory / "timing.jsonl", step, appends=not remote)
        # What later steps cost was paid, whether they counted or not: nothing is dropped.
        self._goodput = Lines(directory / "goodput.jsonl", None, appends=not remote)
        self._lives = read_lines(directory / "goodput.jsonl")
        # TensorBoard's files can't be cut; it hides what a later file says again. tensorboardX
        # doesn't write to object storage, and metrics.jsonl says it all.
        self._board = (
            None
            if remote
            else SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1, flush_secs=10)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics or scores of `step`, one line."""
        self._metrics.add({"step": step, **values})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """Anything that depends on the clock, one line: numbers, or a list with one a process."""
        self._timing.add({"step": step, **values})
        if self._board is not None:
            for name, value in values.items():
                highest = max(value) if isinstance(value, list) else value
                self._board.add_scalar(f"timing/{name}", highest, step)

    def write_goodput(self, line: Mapping[str, Any]) -> None:
        """One line of this life's `Ledger`; TensorBoard gets the shares of all lives so far."""
        self._goodput.add(line)
        if self._board is not None:
            for name, value in account([*self._lives, line]).items():
                self._board.add_scalar(f"goodput/{name}", value, int(line["step"]))

    def sync(self) -> None:
        """Makes sure the lines survive the machine before a checkpoint that follows them."""
        self._metrics.sync()
        self._timing.sync()
        self._goodput.sync()

    def close(self) -> None:
        """Closes all files."""
        self._metrics.close()
        self._timing.close()
        self._goodput.close()
        if self._board is not None:
            self._board.close()


class Unwritten:
    """What all processes but the first write: nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """As `MetricsWriter` has it."""

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """As `MetricsWriter` has it."""

    def write_goodput(self, line: Mapping[str, Any]) -> None:
        """As `MetricsWriter` has it."""

    def sync(self) -> None:
        """As `MetricsWriter` has it."""

    def close(self) -> None:
        """As `MetricsWriter` has it."""


class Lines:
    """A `.jsonl` file that grows; only the lines up to a step survive its opening, or all."""

    def __init__(self, path: epath.Path, step: int | None, appends: bool) -> None:
        """appends: the file system can; object storage can't, there `sync` writes the whole."""
        self._path = path
        self._kept = [
            json.dumps(line) + "\n"
            for line in read_lines(path)
            if step is None or line["step"] <= step
        ]
        self._file: TextIO | None = None
        self.sync()
        if appends:
            self._file = path.open("a")

    def add(self, values: Mapping[str, Any]) -> None:
        """One more line; a local file has it at once."""
        line = json.dumps(values) + "\n"
        if self._file is None:
            self._kept.append(line)
        else:
            self._file.write(line)
            self._file.flush()

    def sync(self) -> None:
        """Makes sure that what was added survives this process and this machine."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            return
        draft = self._path.parent / f".{self._path.name}.draft"
        draft.write_text("".join(self._kept))
        draft.replace(self._path)

    def close(self) -> None:
        """Syncs for the last time."""
        self.sync()
        if self._file is not None:
            self._file.close()


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on object storage (`gs://...`): no appending, no locks."""
    return "://" in str(path)


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a `.jsonl` file; one that a kill cut off in the middle is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class Progress:
    """A live line on a terminal; plain lines, one a log step, elsewhere."""

    def __init__(
        self,
        first_step: int,
        steps: int,
        rows: int,
        unit: str,
        units_per_row: int,
        shown: bool = True,
    ) -> None:
        """rows: rows in a step's batch; units_per_row: how many `unit`s each of them is.

        shown: whether this process is the one that speaks.
        """
        self._steps, self._unit, self._units = steps, unit, rows * units_per_row
        self._live, self._speaks = sys.stderr.isatty(), shown
        self._last_step, self._last_time = first_step, time.perf_counter()
        self._shown = False

    def __enter__(self) -> Progress:
        """Starts the clock anew."""
        self._last_time = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the last live line standing."""
        self.clear()

    def update(self, step: int, loss: Mapping[str, float]) -> dict[str, float]:
        """Shows where training is; returns the timing since the last update."""
        now = time.perf_counter()
        seconds = (now - self._last_time) / max(step - self._last_step, 1)
        self._last_step, self._last_time = step, now
        losses = " ".join(f"{name} {value:.4f}" for name, value in loss.items())
        left = (self._steps - step) * seconds
        line = (
            f"step {step}/{self._steps}  {losses}  "
            f"{self._units / seconds:,.0f} {self._unit}/s  {_duration(left)} left"
        )
        if self._speaks:
            self._show(line)
        return {
            "seconds_per_step": seconds,
            f"{self._unit}_per_second": self._units / seconds,
            f"{self._unit}_per_second_per_device": self._units / seconds / jax.device_count(),
        }

    def _show(self, line: str) -> None:
        log.debug(line)
        if self._live:
            sys.stderr.write("\r\x1b[K" + line)
            self._shown = True
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def skip_time(self, step: int) -> None:
        """Counts anew from `step`, so that evaluating and saving stay out of the throughput."""
        self._last_step, self._last_time = step, time.perf_counter()

    def clear(self) -> None:
        """Ends the live line, so that other lines can follow."""
        if self._shown:
            sys.stderr.write("\n")
            self._shown = False


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
