"""Several processes that train one run: how they start, agree, and hear of each other."""

from __future__ import annotations

import glob
import importlib.util
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath

from jaxgen.errors import UserError
from jaxgen.parallel.watch import SILENCE, TRY_AGAIN, Watch, leave

log = logging.getLogger("jaxgen")

# The library's own heartbeat ends the program with a stack trace: only where our watch failed.
_LAST_RESORT = round(3 * SILENCE)
_LONGEST_WAIT = 1800 * 1000  # milliseconds: the watch ends the wait for who is lost


@dataclass(frozen=True)
class Rendezvous:
    """Where processes meet; all empty, it is found out from the cluster, if there is one."""

    coordinator: str = ""  # HOST:PORT of the first process; left out, the cluster is asked
    processes: int = 0  # how many there are
    process: int = -1  # which one this is, counted from 0
    patience: int = 300  # seconds to wait for each other


@dataclass(frozen=True)
class Hosts:
    """This process among those of its run; made by `joined`."""

    watch: Watch | None = None

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.watch is None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return jax.process_index() == 0

    def barrier(self, name: str) -> None:
        """Waits until all processes have come to this place; each name is used once."""
        if self.watch is not None:
            _client().wait_at_barrier(f"jaxgen/{name}", _LONGEST_WAIT)

    def from_first(self, name: str, value: str) -> str:
        """What the first process has as `value`; each name is used once."""
        if self.watch is None:
            return value
        if self.first:
            _client().key_value_set(f"jaxgen/{name}", value)
            return value
        said: str = _client().blocking_key_value_get(f"jaxgen/{name}", _LONGEST_WAIT)
        return said

    def agree(self, content: Mapping[str, Any]) -> None:
        """Compares what this process was asked to do with what the first one was.

        Raises:
            UserError: if they differ; it names the first field.
        """
        ours = _fields(json.loads(json.dumps(content)))
        theirs = json.loads(self.from_first("content", json.dumps(ours)))
        for field in sorted(ours.keys() | theirs.keys()):
            if ours.get(field) != theirs.get(field):
                raise UserError(
                    f"The processes disagree on {field}: process 0 has {theirs.get(field)}, "
                    f"process {jax.process_index()} has {ours.get(field)}; start all of them with "
                    "the same experiment, flags and versions."
                )

    def check_shared(self, directory: epath.Path) -> None:
        """Makes sure that what the first process writes in `directory` is seen by all.

        Raises:
            UserError: if it isn't.
        """
        if self.watch is None:
            return
        mark = directory / ".seen-by-all"
        if self.first:
            mark.write_text(secrets.token_hex(8))
        told = self.from_first("mark", mark.read_text() if self.first else "")
        if not mark.exists() or mark.read_text() != told:
            raise UserError(
                f"Process {jax.process_index()} (on {socket.gethostname()}) can't see {directory} "
                "of process 0: put runs where all hosts see them, on a shared file system or gs://."
            )
        self.barrier("mark seen")
        if self.first:
            mark.unlink()

    def finished(self) -> None:
        """Lets all processes come to their end together."""
        if self.watch is not None:
            self.barrier("finished")
            self.watch.stop()
            jax.distributed.shutdown()

    def failed(self, sentence: str, status: int) -> None:
        """Ends this process, and makes the others end with the same status."""
        if self.watch is not None:
            self.watch.tell(sentence, status)
            leave(status)

    def lost(self, error: BaseException) -> None:
        """Ends this process after a failed exchange with the others, saying who is lost."""
        if self.watch is not None:
            self.watch.wait_for_verdict()
            first = str(error).strip().splitlines()[0][:200]
            log.error("jaxgen: An exchange with the other processes failed (%s).", first)
            self.watch.tell(f"an exchange failed ({first})", TRY_AGAIN)
            leave(TRY_AGAIN)


ALONE = Hosts()  # a run of one process


def joined(rendezvous: Rendezvous) -> Hosts:
    """Starts `jax.distributed` where there are several processes; before anything uses a device.

    Without flags, JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say the same; else
    it is asked of SLURM (in a step of several tasks), Open MPI, GKE, or the TPU's own host.

    Raises:
        UserError: for flags that aren't whole, a process that isn't one of them, or a taken port.
    """
    place = rendezvous.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    count = rendezvous.processes or _number("JAX_NUM_PROCESSES", 0)
    process = rendezvous.process
    if process < 0:
        process = _number("JAX_PROCESS_ID", -1)
    if not (place or count or process >= 0):
        if _on_a_cluster():
            return _started(None, None, None, rendezvous.patience)
        if not _on_a_tpu():
            return ALONE
        try:
            return _started(None, None, None, rendezvous.patience)
        except ValueError:  # its host knows of no others
            return ALONE
    if count == 1:
        return ALONE
    if not place or count < 1 or process < 0:
        raise UserError(
            "Several processes need all of --coordinator HOST:PORT, --processes N and --process I "
            "(or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID)."
        )
    if process >= count:
        raise UserError(f"There is no process {process} of {count}: they are counted from 0.")
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"The coordinator {place!r} is no HOST:PORT.")
    if process == 0:
        _check_free(int(port))
    return _started(place, count, process, rendezvous.patience)


def _started(place: str | None, count: int | None, process: int | None, patience: int) -> Hosts:
    arrived = threading.Event()

    def give_up() -> None:
        if not arrived.wait(patience):
            log.error("jaxgen: %s", _absent(place, count, process, patience))
            leave(TRY_AGAIN)

    # The library's own time-out aborts with a stack trace.
    threading.Thread(target=give_up, daemon=True, name="jaxgen-arrival").start()
    try:
        jax.distributed.initialize(
            place,
            count,
            process,
            initialization_timeout=patience + 60,
            heartbeat_timeout_seconds=_LAST_RESORT,
            shutdown_timeout_seconds=_LAST_RESORT,
        )
    finally:
        arrived.set()
    if jax.process_count() == 1:
        return ALONE
    where = _state().coordinator_address
    return Hosts(Watch(_client(), jax.process_index(), jax.process_count(), where))


def _absent(place: str | None, count: int | None, process: int | None, patience: int) -> str:
    if process and place and not _answers(place):
        return (
            f"No coordinator answers at {place} after {patience} s: see that process 0 runs "
            "there, and that the port is open between the hosts."
        )
    return (
        f"Not all of the {count or 'other'} processes came to {place or 'the coordinator'} within "
        f"{patience} s: see that each host has started its own."
    )


def _answers(place: str) -> bool:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        return True
    except OSError:
        return False


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"Port {port} is taken on this host ({error.strerror}): is another run's first "
                "process here? Choose another --coordinator port."
            ) from error


def _on_a_cluster() -> bool:
    """Whether the environment says that there are other processes."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    # GKE lists the hosts of a TPU slice, and has no service to ask for more.
    listed = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return listed or any(_number(name, 1) > 1 for name in counts)


def _number(name: str, otherwise: int) -> int:
    said = os.environ.get(name, "")
    if said and not said.isdigit():
        raise UserError(f"The environment's {name} is {said!r}; it has to be a number.")
    return int(said) if said else otherwise


def _on_a_tpu() -> bool:
    """Whether this host has TPUs, and a service to ask for others."""
    if os.environ.get("TPU_SKIP_MDS_QUERY") or importlib.util.find_spec("libtpu") is None:
        return False
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def _state() -> Any:
    # jax.distributed has no other door to its key-value store (Orbax takes this one too).
    from jax._src.distributed import global_state

    return global_state


def _client() -> Any:
    return _state().client


def _fields(content: Any, prefix: str = "") -> dict[str, Any]:
    """ "config.width" -> 64 for each value inside of nested tables."""
    if not isinstance(content, dict):
        return {prefix: content}
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= _fields(value, f"{prefix}.{name}" if prefix else name)
    return found
