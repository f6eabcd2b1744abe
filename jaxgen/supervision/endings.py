"""How processes end, and what follows: which of them was the cause, how long to wait."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

ANOTHER_WAS_LOST = os.EX_TEMPFAIL  # 75: how jaxgen ends when it misses another process
MISTAKES = (1, 2)  # for the user to mend: another try would end the same way

_LONGEST_PAUSE, _LONG_LIFE = 60.0, 300.0  # seconds


@dataclass(frozen=True)
class Ending:
    """The end of process `process`.

    status: its exit status; -n after signal n.
    silent: seconds without a heartbeat for which it was killed; 0 if it wasn't for that.
    """

    process: int
    status: int
    silent: float = 0.0

    @property
    def exit_status(self) -> int:
        """The status as a shell tells it: 128 + n after signal n."""
        return self.status if self.status >= 0 else 128 - self.status


def cause(endings: Sequence[Ending]) -> Ending | None:
    """The first of `endings`, in their order, that went badly; None if all are done.

    A process that only missed another one is named if no other ending explains it.
    """
    bad = [ending for ending in endings if ending.status]
    causes = [ending for ending in bad if ending.status != ANOTHER_WAS_LOST]
    return next(iter(causes or bad), None)


def how(ending: Ending) -> str:
    """How a process ended, as the end of a sentence."""
    status = ending.status
    if ending.silent:
        return f"was silent for {ending.silent:.3g} s and so was killed"
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL (as the system does when memory runs out)"
    if status < 0:
        return f"was killed by {_signal_name(-status)}"
    if status > 128:
        return f"was stopped by {_signal_name(status - 128)} (status {status})"
    meanings = {
        0: ", it is done",
        1: ", a mistake to mend",
        2: ", a flag or value that it doesn't take",
        ANOTHER_WAS_LOST: ", as another process was lost",
    }
    return f"ended with status {status}{meanings.get(status, '')}"


def back_off(first: float, lives: Sequence[float]) -> float:
    """Seconds to wait after `lives`, which lasted so many seconds each.

    `first` after one, doubled for each further one, up to a minute; a long life starts that anew.
    """
    short = 0
    for lasted in lives:
        short = 0 if lasted > _LONG_LIFE else short + 1
    doublings = min(max(short - 1, 0), 60)  # more than that would only overflow
    return min(first * 2.0**doublings, _LONGEST_PAUSE)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
