"""Where a run's processes are, and what tells each of them which it is."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from jaxgen import flags
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Where:
    """Where the processes are to be; by default this host's only one, whatever others do."""

    processes: int | None = None  # how many to start on this machine
    hosts: str = ""  # a file, read anew at each start: a line a process, its host's address
    host: str = ""  # which of its lines are this host; left out, its name and addresses
    port: int = 8476  # where process 0 listens for the others


@dataclass(frozen=True)
class Places:
    """Which processes are to be started here: `here` of `total`, numbered from 0.

    coordinator: address:port of process 0; None leaves the environment to say all this.
    """

    coordinator: str | None
    total: int
    here: tuple[int, ...]


def place(where: Where) -> Places:
    """The processes as of now; the file of hosts is read anew.

    Raises:
        UserError: if they are fewer than one, or the file can't be read or names no host.
    """
    if where.processes is not None and where.processes < 1:
        raise UserError(f"--processes has to be at least 1, not {where.processes}.")
    if where.processes is not None and where.hosts:
        raise UserError("Give --processes (all on this machine) or --hosts FILE, not both.")
    if where.host and not where.hosts:
        raise UserError("--host chooses from a file of hosts: give that with --hosts FILE.")
    if where.hosts:
        hosts = read_hosts(where.hosts)
    elif where.processes is not None:
        hosts = ["127.0.0.1"] * where.processes
    else:
        return Places(None, 1, (0,))
    own = {where.host} if where.host else {host for host in set(hosts) if _is_this_host(host)}
    first = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]  # as IPv6 is written before a port
    here = tuple(process for process, host in enumerate(hosts) if host in own)
    return Places(f"{first}:{where.port}", len(hosts), here)


def read_hosts(file: str) -> list[str]:
    """The address of each process's host; what is behind a # in a line is left out.

    Raises:
        UserError: if the file can't be read or names no host.
    """
    try:
        lines = Path(file).read_text().splitlines()
    except OSError as error:
        raise UserError(f"The hosts can't be read from {file}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"The hosts can't be read from {file}, which is no text.") from error
    hosts = [host for line in lines if (host := line.partition("#")[0].strip())]
    if not hosts:
        raise UserError(f"{file} names no host: write a line for each process, its host's address.")
    return hosts


def check_start(where: Where, places: Places) -> None:
    """Refuses what would keep a first start from working.

    Raises:
        UserError: if no process is this host's, or it is the coordinator's and its port is taken.
    """
    if not 1 <= where.port <= 65535:
        raise UserError(f"--port has to be from 1 to 65535, not {where.port}.")
    if not places.here:
        name = where.host or socket.gethostname()
        near = flags.nearest(name, read_hosts(where.hosts))
        raise UserError(
            f"{where.hosts} has no line for this host, {name}{near}: add one, or say with --host "
            "which of the lines it is."
        )
    if places.coordinator is not None and 0 in places.here:
        try:
            with socket.socket() as probe:
                # As jax's coordinator does: what remains of closed connections doesn't count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", where.port))
        except OSError as error:
            raise UserError(
                f"Process 0 can't listen on port {where.port} ({error.strerror}): choose another "
                "with --port, the same on every host."
            ) from error


def environment(places: Places, process: int) -> dict[str, str]:
    """The variables that tell a process which of all it is."""
    if places.coordinator is None:
        return {}
    told = {
        "JAX_COORDINATOR_ADDRESS": places.coordinator,
        "JAX_NUM_PROCESSES": str(places.total),
        "JAX_PROCESS_ID": str(process),
    }
    if len(places.here) > 1 and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # A GPU for each; on other devices jax makes nothing of it.
        told["JAX_LOCAL_DEVICE_IDS"] = str(places.here.index(process))
    return told


def _is_this_host(host: str) -> bool:
    """By name, or if an address, by whether something can be bound to it here."""
    if host in ("localhost", socket.gethostname(), socket.getfqdn()):
        return True
    try:
        version = ipaddress.ip_address(host).version
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True
