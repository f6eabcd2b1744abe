"""What to run next: the command as given, or once the run that it begins is there, its resuming."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The flags that tell a process which of all it is; a run that is resumed is told again.
IDENTITY = ("coordinator", "processes", "process")


@dataclass(frozen=True)
class Training:
    """A command that begins a run: the directory that --run names ("" if none), how to go on."""

    run: str
    resume: tuple[str, ...]


def training_of(command: Sequence[str]) -> Training | None:
    """What `command` trains; None if it begins no run, so that it can be repeated as it is.

    It begins one as `[PREFIX] jaxgen train ...` or `[PREFIX] python EXPERIMENT.py ...`; what
    resumes it keeps the prefix and the interpreter.
    """
    for position, word in enumerate(command):
        before, rest = tuple(command[:position]), tuple(command[position + 1 :])
        run = flag_value(rest, "run")
        resume = ("resume", run, *flags_given(rest, (*IDENTITY, "patience")))
        if os.path.basename(word) == "jaxgen":
            return Training(run, (*before, word, *resume)) if "train" in rest[:1] else None
        if word.endswith(".py") and _is_experiment(word):
            python = before or (sys.executable,)
            main = "from jaxgen.cli import main; main()"
            return Training(run, (*python, "-c", main, *resume))
    return None


def is_jaxgen(command: Sequence[str]) -> bool:
    """Whether `command` is known to touch its heartbeat, and to save itself when told to stop."""
    named = any(os.path.basename(word) == "jaxgen" for word in command)
    return named or training_of(command) is not None


def next_command(command: Sequence[str], training: Training | None) -> Sequence[str]:
    """`command`, or what goes on with the run that it begins, if that is there."""
    begun = training is not None and _exists(f"{training.run}/config.json")
    return training.resume if training is not None and begun else command


def flag_value(arguments: Sequence[str], name: str) -> str:
    """What `--name VALUE` or `--name=VALUE` says, the last if there are several; "" if none is."""
    value = ""
    for position, argument in enumerate(arguments):
        if argument == f"--{name}":
            value = "".join(arguments[position + 1 : position + 2])
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value


def flags_given(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the flags `names` that `arguments` give, as `--name=value`."""
    given = {name: flag_value(arguments, name) for name in names}
    return [f"--{name}={value}" for name, value in given.items() if value]


def _is_experiment(path: str) -> bool:
    try:
        return "jaxgen.cli" in Path(path).read_text()
    except (OSError, ValueError):
        return False


def _exists(path: str) -> bool:
    if "://" not in path:
        return os.path.exists(path)
    # On object storage. What looks there takes more memory than the supervisor is to have.
    look = "import sys; from etils import epath; sys.exit(not epath.Path(sys.argv[1]).exists())"
    looked = subprocess.run([sys.executable, "-c", look, path], stderr=subprocess.DEVNULL)
    return looked.returncode == 0
