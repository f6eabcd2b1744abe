"""`jaxgen supervise`: keeps a run alive, by starting its processes again after one was lost.

    jaxgen supervise --processes 4 -- jaxgen train EXPERIMENT.py --run RUN

A process is lost when it ends badly or falls silent: jaxgen's processes touch the file that
JAXGEN_HEARTBEAT names about once a second. This room decides by pure functions (`endings`,
`resuming`, `places`); `processes` starts and ends what it decides on, and `keep_alive` is the loop.
Nothing here imports jax: the supervisor starts in a moment, and isn't what the system kills when
memory runs out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jaxgen import flags
from jaxgen.errors import UserError
from jaxgen.supervision.endings import MISTAKES, back_off, cause, how
from jaxgen.supervision.places import Places, Where, check_start, environment, place
from jaxgen.supervision.processes import Processes, Stop
from jaxgen.supervision.resuming import IDENTITY, flags_given, is_jaxgen, next_command, training_of


@dataclass(frozen=True)
class Patience:
    """How often to start again, and how long to wait for what."""

    restarts: int = 20  # how often to start again, in all
    backoff: float = 1.0  # seconds before a restart; after short lives doubled each time, up to 60
    silence: float = 60.0  # seconds without a heartbeat before a process is killed; 0: never
    grace: float = 30.0  # seconds that the others have to end by themselves, once one is lost


def supervise(arguments: list[str]) -> None:
    """Runs the command behind `--` until it is done, and exits with its status.

    Raises:
        UserError: for what can't be started, before anything is.
        SystemExit: with 0 when all is done or this host is no longer needed, 1 or 2 after the
            user's mistake, 128 + n after a signal to the supervisor; after the last restart, with
            the status of the process that was lost.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[at + 1 :]
    if not command and not {"-h", "--help"} & set(arguments):
        raise UserError(
            "There is no command to supervise: put it behind --, as in `jaxgen supervise -- jaxgen "
            "train EXPERIMENT.py --run RUN`."
        )
    chosen = flags.parse(
        [flags.group("where", Where, Where()), flags.group("patience", Patience, Patience())],
        arguments[:at],
        "jaxgen supervise",
        "Keeps a run alive: jaxgen supervise [flags] -- jaxgen train EXPERIMENT.py --run RUN. "
        "When a process ends badly or falls silent, all are started again, by resuming the run.",
    )
    _check(chosen.where, chosen.patience, command)
    sys.exit(keep_alive(chosen.where, chosen.patience, command))


def keep_alive(where: Where, patience: Patience, command: Sequence[str]) -> int:
    """Starts `command`'s processes again and again until they are done; returns the exit status.

    Raises:
        UserError: if they can't be placed or started.
    """
    training = training_of(command)
    places = place(where)
    check_start(where, places)
    lives: list[float] = []  # seconds
    with Stop() as stop:
        while places.here:
            began = time.monotonic()
            following = next_command(command, training)
            with Processes(stop, is_jaxgen(command)) as processes:
                for process in places.here:
                    told = environment(places, process)
                    processes.start(process, following, {**os.environ, **told})
                endings = processes.wait(patience.silence, patience.grace)
            lives.append(time.monotonic() - began)
            if stop.received:
                return 128 + stop.received[0]
            lost = cause(endings)
            if lost is None:
                return 0
            name = (
                f"process {lost.process} of {places.total}" if places.total > 1 else "the process"
            )
            if lost.status in MISTAKES:
                _say(f"{name} {how(lost)}; starting again would end the same way.")
                return lost.exit_status
            if len(lives) > patience.restarts:
                _say(f"{name} {how(lost)}; given up after {patience.restarts} restarts.")
                return lost.exit_status
            pause = back_off(patience.backoff, lives)
            count = f"{len(lives)} of {patience.restarts}"
            _say(f"{name} {how(lost)}; restart {count} in {pause:g} s.")
            stop.sleep(pause)
            if stop.received:
                return 128 + stop.received[0]
            places = _place_again(where, places)
    _say(f"{where.hosts} no longer names this host, so there is nothing left to do here.")
    return 0


def _place_again(where: Where, before: Places) -> Places:
    """The processes as of now, or as before while the file of hosts can't be read."""
    try:
        return place(where)
    except UserError as mistake:
        _say(f"{mistake} The hosts stay as they were.")
        return before


def _check(where: Where, patience: Patience, command: Sequence[str]) -> None:
    """Refuses what can't be supervised."""
    for name, value in dataclasses.asdict(patience).items():
        if not 0 <= value < float("inf"):
            raise UserError(f"--{name} has to be a number from 0, not {value}.")
    if shutil.which(command[0]) is None:
        raise UserError(f"There is no command {command[0]!r} here, or it can't be run.")
    training = training_of(command)
    if training is None:
        return
    if not training.run:
        raise UserError(
            "Without --run, a run's directory is named by the time, and couldn't be found again: "
            "add --run DIRECTORY to the command behind --."
        )
    twice = flags_given(command, IDENTITY)
    if twice and (where.processes is not None or where.hosts):
        raise UserError(
            f"The supervisor tells each process which it is: leave {' '.join(twice)} out of the "
            "command behind --."
        )


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone is no reason to stop
        print(f"jaxgen supervise: {sentence}", file=sys.stderr, flush=True)
