"""Starts runs of several real processes, with simulated devices each."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TOY = Path(__file__).parent / "toy.py"


class Together:
    """The processes of one command, a list of arguments each; `before`: what each runs first."""

    def __init__(self, arguments, devices=2, before=None):
        place = f"127.0.0.1:{free_port()}"
        count = len(arguments)
        main = "from jaxgen.cli import main; main()"
        meet = ["--coordinator", place, "--processes", str(count), "--process"]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", f"{first}\n{main}", *mine, *meet, str(number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(devices),
                cwd=ROOT,
            )
            for number, (first, mine) in enumerate(
                zip(before or [""] * count, arguments, strict=True)
            )
        ]

    def ended(self, seconds=120):
        """Exit status and output of each process; all are killed in the end."""
        deadline = time.time() + seconds
        try:
            said = [
                process.communicate(timeout=max(1, deadline - time.time()))[0]
                for process in self.processes
            ]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], said

    def wait_for_lines(self, path, count):
        """Until `path` has so many lines, all processes being alive."""
        deadline = time.time() + 120
        while not path.exists() or len(path.read_text().splitlines()) < count:
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0]
            assert time.time() < deadline
            time.sleep(0.02)


def environment(devices):
    """With few simulated devices, and otherwise as the tests compile."""
    flags = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return os.environ | {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(ROOT)}


def free_port():
    """One that nobody listens at, most likely until it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
