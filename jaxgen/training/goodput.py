"""Goodput: which share of a run's time went into steps that counted, and where the rest went.

A run has lives: it is begun, stopped or killed, and resumed. Each life adds up its own seconds by
phase and writes them down at every log line. What was trained after a life's last checkpoint is
trained again by the next one: the first time didn't count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What a life's seconds are divided into; what is in none of these went into steps.
PHASES = ("start", "compile", "data", "evaluation", "checkpoint")


class Ledger:
    """The seconds of this life, by phase.

    began: when the process was started, as `time.time()` has it.
    step: the step that this life goes on from.
    """

    def __init__(self, began: float, step: int) -> None:
        self._began, self._first = began, step
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._seconds["start"] = time.time() - began

    @contextmanager
    def spent(self, phase: str) -> Iterator[None]:
        """Counts what happens within as `phase`."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - before)

    def add(self, phase: str, seconds: float) -> None:
        """So many seconds more of `phase`."""
        self._seconds[phase] += seconds

    def line(self, step: int) -> dict[str, Any]:
        """This life so far, after `step`, to be written down."""
        now = time.time()
        steps = max(0.0, now - self._began - sum(self._seconds.values()))
        return {
            "began": self._began,
            "first": self._first,
            "step": step,
            "at": now,
            "seconds": {**self._seconds, "steps": steps},
        }


def account(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The shares of a run's time, from its first life's beginning to its last line.

    lines: those of all lives, in order.

    Returns "goodput", the share of steps that counted; "lost_steps", of those that had to be
    trained again; "down", between the last line of a life and the beginning of the next; and one
    for each of `PHASES`. They sum to 1.
    """
    lives = list({line["began"]: line for line in lines}.values())
    shares = dict.fromkeys(("goodput", "lost_steps", "down", *PHASES), 0.0)
    for life, following in zip(lives, [*lives[1:], None], strict=True):
        trained = max(life["step"] - life["first"], 0)
        kept = trained if following is None else following["first"] - life["first"]
        counted = min(max(kept, 0), trained) / trained if trained else 0.0
        for phase in PHASES:
            shares[phase] += life["seconds"][phase]
        shares["goodput"] += counted * life["seconds"]["steps"]
        shares["lost_steps"] += (1 - counted) * life["seconds"]["steps"]
        if following is not None:
            shares["down"] += max(0.0, following["began"] - life["at"])
    whole = sum(shares.values()) or 1.0
    return {name: seconds / whole for name, seconds in shares.items()}


def told(shares: Mapping[str, float]) -> str:
    """The shares as a person reads them, the largest loss first."""
    losses = sorted(
        ((share, name) for name, share in shares.items() if name != "goodput"), reverse=True
    )
    rest = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for share, name in losses if share)
    return f"Goodput {shares['goodput']:.1%}" + (f" ({rest})" if rest else "")


def process_began() -> float:
    """When this process was started, as `time.time()` has it; now, where that isn't known."""
    try:
        # The 22nd field, counted in clock ticks since the machine started (proc(5)).
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        alive = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - alive + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time()
