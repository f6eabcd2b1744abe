"""Starts processes, watches them, and sees to it that none outlives its supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from jaxgen.errors import UserError
from jaxgen.supervision.endings import Ending

_LOOK_EVERY = 0.05  # seconds
_KNOWN_ALIVE = 1.0  # the longest time between two looks that counts as a process's silence

# Reads the list of process groups, line by line anew; at the end of the input, which comes when the
# supervisor is gone (however it ended), kills the groups that were listed last, and tidies up.
_GUARD = """
trap '' HUP INT TERM
while read -r groups; do listed=$groups; done
for group in $listed; do kill -s KILL -- "-$group"; done
rm -rf -- "$1"
"""


class Stop:
    """The signals that asked the supervisor to stop, noted while this is entered."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Takes the signals over; after `nohup`, a closed terminal doesn't count as one."""
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def sleep(self, seconds: float) -> None:
        """Waits so long, or until a signal comes."""
        until = time.monotonic() + seconds
        while not self.received and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_EVERY))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)


@dataclass
class _Running:
    process: int
    popen: subprocess.Popen[bytes]
    heartbeat: Path
    touched: int  # when, in ns since 1970
    watched: bool  # whether it is known to touch its file
    silent: float = 0.0  # seconds

    def look(self, passed: float) -> None:
        """Counts silence, `passed` seconds after the last look."""
        try:
            touched = self.heartbeat.stat().st_mtime_ns
        except FileNotFoundError:  # somebody tidied up
            self.heartbeat.touch()
            return
        if touched != self.touched:
            self.touched, self.silent, self.watched = touched, 0.0, True
        elif self.watched:
            # Counted look by look, since the clocks of a machine that slept would accuse everyone.
            self.silent += min(passed, _KNOWN_ALIVE)


class Processes:
    """The processes of one life of a run; none of them, nor what they start, outlives it.

    Each gets a process group and a session of its own. Ctrl-C in a terminal therefore reaches the
    supervisor only, which passes it on once; and data workers or what a script has started are
    killed with their process.
    """

    def __init__(self, stop: Stop, jaxgen: bool) -> None:
        """Starts nothing yet.

        jaxgen: whether the command is jaxgen's own: then a process is to touch its heartbeat from
            the start, while others are watched once they do; and a signal is for the process only
            (not for its data workers), while a script has to share it with what it started.
        """
        self._stop, self._jaxgen = stop, jaxgen
        self._running: list[_Running] = []
        self._groups: list[int] = []  # those in which something may still run

    def __enter__(self) -> Processes:
        """Starts the guard, which does what this process can't if it is killed itself."""
        self._heartbeats = Path(tempfile.mkdtemp(prefix="jaxgen-heartbeats-"))
        # A shell, so that what kills programs by the name of Python or jaxgen leaves it be.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "jaxgen-guard", str(self._heartbeats)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._guard.stdin is not None
        self._to_guard = self._guard.stdin.fileno()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kills what still runs."""
        for group in list(self._groups):
            self._kill_group(group)
        for running in self._running:
            running.popen.wait()
        self._guard.communicate()

    def start(self, process: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts process number `process`.

        Raises:
            UserError: if the command can't be run.
        """
        heartbeat = self._heartbeats / str(process)
        heartbeat.touch()
        try:
            popen = subprocess.Popen(
                command,
                env={**environment, "JAXGEN_HEARTBEAT": str(heartbeat)},
                # Of several, one at most can sensibly be typed to.
                stdin=subprocess.DEVNULL if self._running else None,
                start_new_session=True,
                # The guard hears of a process before that begins: there is no moment between. This
                # is only safe without threads, of which a supervisor has none.
                preexec_fn=lambda: self._tell_guard([*self._groups, os.getpid()]),
            )
        except OSError as error:
            raise UserError(f"{command[0]} can't be run: {error.strerror}.") from error
        self._groups.append(popen.pid)
        touched = heartbeat.stat().st_mtime_ns
        self._running.append(_Running(process, popen, heartbeat, touched, self._jaxgen))

    def wait(self, silence: float, grace: float) -> list[Ending]:
        """Waits until all have ended; returns their ends in that order.

        A process that was silent for `silence` seconds (0: ever so long) is killed. Once one ended
        badly, the others have `grace` seconds to notice and say why (after a third of that, who is
        silent is taken to be why), and then are killed too: those aren't in the list. They are not
        asked to save, since what they wait for is gone. A first signal to the supervisor is passed
        on and all may take their time; after a second one they are killed.
        """
        endings: list[Ending] = []
        passed_on, looked = False, time.monotonic()
        lost_at = None
        while self._running:
            time.sleep(_LOOK_EVERY)
            now = time.monotonic()
            allowed = silence if lost_at is None else min(silence, grace / 3)
            endings += self._silenced(now - looked, allowed) + self._ended()
            looked = now
            if self._stop.received and not passed_on:
                self._pass_on(self._stop.received[0])
                passed_on = True
            if lost_at is None and not passed_on and any(ending.status for ending in endings):
                lost_at = now
            out_of_patience = lost_at is not None and now - lost_at > grace
            if out_of_patience or len(self._stop.received) > 1:
                return endings
        if passed_on:
            self._wait_for_groups(grace)
        return endings

    def _ended(self) -> list[Ending]:
        """Those that ended since the last look; signals first, as they may explain the others."""
        ended = [running for running in self._running if running.popen.poll() is not None]
        for running in ended:
            self._running.remove(running)
            # At once, before the number can be another's. But where a script was told to stop,
            # what it had started may still be saving.
            if self._jaxgen or not self._stop.received:
                self._kill_group(running.popen.pid)
        endings = [Ending(running.process, running.popen.returncode) for running in ended]
        return sorted(endings, key=lambda ending: ending.status >= 0)

    def _silenced(self, passed: float, silence: float) -> list[Ending]:
        endings = []
        for running in list(self._running):
            running.look(passed)
            if silence and running.silent > silence and running.popen.poll() is None:
                self._kill_group(running.popen.pid)
                status = running.popen.wait()
                self._running.remove(running)
                endings.append(Ending(running.process, status, running.silent))
        return endings

    def _pass_on(self, number: int) -> None:
        # jaxgen knows SIGTERM and SIGINT; a terminal that is closed means the same.
        number = signal.SIGTERM if number == signal.SIGHUP else number
        for running in self._running:
            with contextlib.suppress(ProcessLookupError):
                if self._jaxgen:
                    os.kill(running.popen.pid, number)
                else:
                    os.killpg(running.popen.pid, number)

    def _wait_for_groups(self, grace: float) -> None:
        until = time.monotonic() + grace
        while time.monotonic() < until and len(self._stop.received) < 2:
            if not any(_has_members(group) for group in self._groups):
                return
            time.sleep(_LOOK_EVERY)

    def _kill_group(self, group: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only a zombie left
            os.killpg(group, signal.SIGKILL)
        self._groups.remove(group)
        self._tell_guard(self._groups)

    def _tell_guard(self, groups: Sequence[int]) -> None:
        with contextlib.suppress(BrokenPipeError):  # killed by somebody; the next life has another
            os.write(self._to_guard, (" ".join(map(str, groups)) + "\n").encode())


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
