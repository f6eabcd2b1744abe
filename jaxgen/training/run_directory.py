"""A run's directory: all that another command needs to rebuild, continue and judge the model.

config.json         experiment, setting, resolved config, mesh, required runs
experiment.py       the experiment file as it was
assets/             what the model needs of its data: a tokenizer, a fingerprint
batch.json          shapes and types of a row of a batch
environment.json    versions, git commit, command line, devices
uncommitted.diff    what the commit doesn't say
metrics.jsonl       what the seed determines, line by line
timing.jsonl        what it doesn't: seconds, throughput
scores.json         the last scores
log.txt  tensorboard/  samples/STEP/  checkpoints/  requires/NAME/
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import jax
from etils import epath

from jaxgen.errors import UserError
from jaxgen.training.experiment_file import ExperimentFile
from jaxgen.training.metrics import is_remote

log = logging.getLogger("jaxgen")

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class RunDirectory:
    """Where one run keeps everything; `path` may be on object storage (`gs://...`)."""

    path: epath.Path

    @property
    def checkpoints(self) -> epath.Path:
        """Orbax's directory."""
        return self.path / "checkpoints"

    @property
    def assets(self) -> epath.Path:
        """Where files lie that the experiment keeps of its data."""
        return self.path / "assets"

    def samples(self, step: int) -> epath.Path:
        """Where previews of step `step` go."""
        return self.path / "samples" / f"{step:07d}"

    def required(self, name: str) -> epath.Path:
        """Where a run that this one builds on is trained, if none was given."""
        return self.path / "requires" / name

    def read(self, name: str) -> Any:
        """The JSON file `name`.

        Raises:
            UserError: if there is none, or it is no JSON.
        """
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name} can't be read ({error}).") from error

    def kept(self) -> dict[str, bytes]:
        """The content of each file in `assets`."""
        if not self.assets.exists():
            return {}
        return {file.name: file.read_bytes() for file in self.assets.iterdir()}

    def write(self, name: str, content: Any) -> None:
        """Writes the JSON file `name`, whole or not at all."""
        whole = self.path / name
        draft = self.path / f".{name}.draft"
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        draft.replace(whole)


def create(
    path: epath.PathLike,
    config: Mapping[str, Any],
    experiment: ExperimentFile,
    assets: Mapping[str, bytes],
    arguments: Sequence[str],
) -> RunDirectory:
    """Makes the directory of a new run and writes down where it comes from.

    experiment: its source is kept, and the commit that it stands at.
    assets: file names, with no directory in them, and what to keep in those files.

    Raises:
        UserError: if there is a run already, or other files.
    """
    run = free(path)
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "experiment.py").write_text(experiment.source)
    for name, content in assets.items():
        run.assets.mkdir(exist_ok=True)
        (run.assets / name).write_bytes(content)
    place = os.fspath(experiment.path.parent)
    commit, difference = _git(place, "rev-parse", "HEAD"), _git(place, "diff", "HEAD")
    if difference:
        (run.path / "uncommitted.diff").write_text(difference)
    run.write("environment.json", environment() | {"command": list(arguments), "commit": commit})
    run.write("config.json", dict(config))  # last: with it, the directory is a run
    return run


def free(path: epath.PathLike) -> RunDirectory:
    """A directory that can take a new run; nothing is made yet.

    Raises:
        UserError: if there is a run already, or other files.
    """
    run = RunDirectory(epath.Path(path))
    if (run.path / "config.json").exists():
        there = run.read("config.json")
        raise UserError(
            f"{run.path} already holds a run of {there['experiment']!r}: continue it with "
            f"`jaxgen resume {run.path}`, or choose another directory with --run."
        )
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"{run.path} is a file; choose a directory with --run.")
    if run.path.exists() and any(
        entry.name not in ("lock", "log.txt", "requires") for entry in run.path.iterdir()
    ):
        raise UserError(
            f"{run.path} holds files that are no run; choose an empty directory with --run."
        )
    return run


def open_run(path: epath.PathLike) -> RunDirectory:
    """The directory of a run that exists.

    Raises:
        UserError: if it isn't one.
    """
    run = RunDirectory(epath.Path(path))
    if not run.path.exists():
        raise UserError(f"There is no run directory {path}.")
    if not (run.path / "config.json").exists() or not (run.path / "experiment.py").exists():
        raise UserError(f"{path} is not a run directory: it has no config.json and experiment.py.")
    return run


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the seed."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "cores": _cores(),
        "processes": jax.process_count(),
    }


def changed_environment(run: RunDirectory) -> list[str]:
    """What is no longer as it was when the run began, a phrase each; bitwise resume needs none."""
    then, now = run.read("environment.json"), environment()
    differences = [
        f"{name} {then['versions'].get(name)} → {version}"
        for name, version in now["versions"].items()
        if then["versions"].get(name) != version
    ]
    differences += [
        f"{key} {then.get(key)} → {now[key]}"
        for key in ("platform", "devices", "cores", "processes")
        if then.get(key) != now[key]
    ]
    return differences


@contextmanager
def locked(path: epath.PathLike) -> Iterator[None]:
    """Keeps a second process from training in the same run directory.

    The system lets go of the lock when the process ends, however it ends. On object storage
    there are no locks; there it is up to the user.

    Raises:
        UserError: if another process holds it.
    """
    if is_remote(path) or sys.platform == "win32":
        yield
        return
    import fcntl

    epath.Path(path).mkdir(parents=True, exist_ok=True)
    with open(f"{path}/lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"Another process is training in {path}; wait for it to end, or stop it."
            ) from error
        yield


@contextmanager
def logged(run: RunDirectory) -> Iterator[None]:
    """Keeps all that is said, and every progress line, in the run's `log.txt` too."""
    if is_remote(run.path):
        yield
        return
    to_file = logging.FileHandler(str(run.path / "log.txt"))
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(to_file)
    try:
        yield
    except Exception as ended:
        log.debug("%s: %s", type(ended).__name__, ended)
        raise
    finally:
        log.removeHandler(to_file)
        to_file.close()


def _cores() -> int:
    """How many cores this process may use: one against two gives other last digits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _git(place: str, *arguments: str) -> str | None:
    """Git's answer about the repository that a directory is in; None outside of one."""
    try:
        return subprocess.run(
            ["git", "-C", place, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
