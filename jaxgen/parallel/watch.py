"""Signs of life: from this process to its supervisor, and from all processes to each other.

A collective waits for a lost process until the library's own heartbeat aborts the whole program,
with a stack trace. Here every process beats once a second in the key-value store that comes with
`jax.distributed`; the first process looks at all beats, the others at its verdict, so what is
said grows with the number of processes and not with its square. Whoever hears of a loss says one
sentence and leaves with a status that tells a supervisor whether starting again could help.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from typing import Any

import jax

from jaxgen.errors import out_of_memory

log = logging.getLogger("jaxgen")

# As sysexits.h has it: a failure that trying again may not meet.
TRY_AGAIN = 75

SILENCE = 20.0  # seconds without a beat after which a process counts as lost
_EVERY = 1.0  # seconds between beats

_BEATS, _VERDICT = "jaxgen/beat/", "jaxgen/verdict/"

_FAILED = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")


def exchange_failed(error: BaseException | None) -> bool:
    """Whether `error`, or what it comes from, is one of an exchange between several processes."""
    if error is None or jax.process_count() == 1:
        return False
    # An array that didn't arrive raises a ValueError where it is read; tensorstore's are of files.
    said = str(error)
    unread = isinstance(error, ValueError) and _FAILED.match(said) and "tensorstore" not in said
    known = isinstance(error, jax.errors.JaxRuntimeError) and not out_of_memory(error)
    return known or bool(unread) or exchange_failed(error.__cause__)


def beat_for_supervisor() -> None:
    """Touches the file $JAXGEN_HEARTBEAT once a second for as long as this process runs."""
    place = os.environ.get("JAXGEN_HEARTBEAT")
    if not place:
        return

    def beat() -> None:
        while True:
            with contextlib.suppress(OSError):  # who removes it asks no more
                os.utime(place)
            time.sleep(_EVERY)

    threading.Thread(target=beat, daemon=True, name="jaxgen-heartbeat").start()


class Watch:
    """Watches over the other processes of a run, in threads of its own.

    client: of `jax.distributed`, with a key-value store.
    process, processes: which one this is, and how many there are.
    coordinator: how the place of the store is told to the user.
    silence: seconds without a sign after which a process is lost.
    """

    def __init__(
        self,
        client: Any,
        process: int,
        processes: int,
        coordinator: str,
        silence: float = SILENCE,
    ) -> None:
        self._client, self._process, self._processes = client, process, processes
        self._coordinator, self._silence = coordinator, silence
        self._answered = time.monotonic()
        self._over = threading.Event()
        self._answer_abort()
        for task in (self._beat, self._judge):
            threading.Thread(target=task, daemon=True, name=f"jaxgen-{task.__name__}").start()

    def stop(self) -> None:
        """Ends the watch: from now on processes may leave."""
        self._over.set()

    def tell(self, sentence: str, status: int) -> None:
        """Makes the other processes end too, for the reason that this one has."""
        self.stop()
        said = json.dumps({"by": self._process, "sentence": sentence, "status": status})
        key = f"{_VERDICT}{self._process}"
        # If the coordinator is gone as well, nobody needs to be told by us.
        threading.Thread(target=self._set, args=(key, said), daemon=True).start()
        # The first process keeps the store: it stays until the others have read the verdict.
        time.sleep(3 * _EVERY if self._process == 0 else _EVERY)

    def wait_for_verdict(self) -> None:
        """Gives the watch the time to find who is lost, after something else has failed.

        Leaves the process if it finds out, returns if not.
        """
        if self._over.wait(self._silence + 5 * _EVERY):
            time.sleep(4 * _EVERY)  # `_leave` is about to end the process, with a better sentence

    def _beat(self) -> None:
        count = 0
        last_seen: dict[int, tuple[str, float]] = {}
        while not self._over.is_set():
            count += 1
            try:
                self._set(f"{_BEATS}{self._process}", str(count))
                if self._process == 0:
                    last_seen = self._look(last_seen)
                verdict = self._verdict()
            except Exception:
                # The store doesn't answer: `_judge` counts the seconds.
                self._over.wait(_EVERY)
                continue
            self._answered = time.monotonic()
            if verdict is not None:
                self._leave(*verdict)
            self._over.wait(_EVERY)

    def _judge(self) -> None:
        while not self._over.wait(_EVERY):
            if time.monotonic() - self._answered > self._silence:
                self._leave(
                    f"The first process, at {self._coordinator}, has not answered for "
                    f"{self._silence:.0f} s: it died, hangs, or the network is down. This process "
                    "ends, to be started again with the others.",
                    TRY_AGAIN,
                )

    def _look(self, last_seen: dict[int, tuple[str, float]]) -> dict[int, tuple[str, float]]:
        """Each process's last beat and when it came; says so if one is too old."""
        now = time.monotonic()
        beats = {
            int(key.rpartition("/")[2]): beat
            for key, beat in self._client.key_value_dir_get(_BEATS)
        }
        for process in range(self._processes):
            beat = beats.get(process, "")
            if process not in last_seen or last_seen[process][0] != beat:
                last_seen[process] = beat, now
            elif now - last_seen[process][1] > self._silence:
                said = {
                    "by": process,
                    "sentence": f"Nothing was heard of process {process} for "
                    f"{self._silence:.0f} s: it died, hangs, or the network is down. All processes "
                    "end, to be started again from the last checkpoint.",
                    "status": TRY_AGAIN,
                }
                self._set(f"{_VERDICT}0", json.dumps(said))
        return last_seen

    def _verdict(self) -> tuple[str, int] | None:
        found = dict(self._client.key_value_dir_get(_VERDICT))
        if not found:
            return None
        said = json.loads(next(iter(found.values())))
        sentence = said["sentence"]
        if said["status"] != TRY_AGAIN:
            sentence = f"Process {said['by']} ended: {sentence}"
        return sentence, said["status"]

    def _answer_abort(self) -> None:
        """Says a sentence where the library aborts the program, and ends with a status to match.

        It does that in a thread of its own, at once when the connection to the first process
        closes. Python's handlers wait for the main thread, which waits for the lost process.
        """

        def answer(number: int) -> None:
            who = f"the first one, at {self._coordinator}," if self._process else "one of them"
            self._leave(
                "The connection to the other processes broke (the library says how, above): most "
                f"likely {who} died. This process ends, to be started again with the others.",
                TRY_AGAIN,
            )

        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(answer)  # C keeps no reference
        ctypes.CDLL(None).signal(signal.SIGABRT, self._on_abort)

    def _set(self, key: str, value: str) -> None:
        self._client.key_value_set(key, value, allow_overwrite=True)

    def _leave(self, sentence: str, status: int) -> None:
        if self._over.is_set():
            return
        self._over.set()
        log.error("jaxgen: %s", sentence)
        if self._process == 0:  # it keeps the store that the others read
            time.sleep(3 * _EVERY)
        leave(status)


def leave(status: int) -> None:
    """Ends the process at once: the ordinary end would wait for those who don't come."""
    for handler in log.handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
