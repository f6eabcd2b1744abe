"""How a run begins: its options, and its directory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from jaxgen.errors import UserError
from jaxgen.parallel.hosts import ALONE, Hosts
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.options import Parallel, check_parallel
from jaxgen.training import requirements, run_directory
from jaxgen.training.experiment_file import ExperimentFile
from jaxgen.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Options:
    """How to run an experiment, whatever it is."""

    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)  # how the devices share the work
    parallel: Parallel = dataclasses.field(default_factory=Parallel)  # what they do besides
    keep: int = 2  # newest checkpoints to keep, besides the best
    checkpoint_every: int = 0  # steps between checkpoints; 0 takes the experiment's own
    workers: int = 0  # processes that read data; 0 reads in threads


def begin(
    path: epath.PathLike,
    file: ExperimentFile,
    setting: str,
    config: Any,
    options: Options,
    required: Mapping[str, str],
    arguments: Sequence[str],
    hosts: Hosts = ALONE,
) -> RunDirectory:
    """Makes a run directory, by the first of several processes. Nothing is trained yet.

    required: directories of the runs that this one builds on, by name; for a name left out, a
    run of its own is begun inside, in the setting of the same name if it has one.

    Raises:
        UserError: if the directory is taken, or a required run is of another experiment; if the
            processes disagree, or don't all see the directory.
    """
    # What doesn't fit shouldn't leave a directory behind.
    check_parallel(options.parallel, make_mesh(options.mesh))
    if options.keep < 1:
        raise UserError(f"--keep {options.keep} would keep no checkpoint; take at least 1.")
    given = {name: str(epath.Path(place).resolve()) for name, place in required.items()}
    hosts.agree(
        {
            "run": str(epath.Path(path).resolve()),
            "experiment": {file.name: hashlib.sha256(file.source.encode()).hexdigest()[:12]},
            "setting": setting,
            "config": file.config_to_json(config),
            "options": dataclasses.asdict(options),
            "requires": given,
            "versions": run_directory.environment()["versions"],
        }
    )
    if hosts.first:
        _begin(run_directory.free(path), file, setting, config, options, given, arguments)
    hosts.barrier("begun")
    hosts.check_shared(epath.Path(path))
    return run_directory.open_run(path)


def _begin(
    run: RunDirectory,
    file: ExperimentFile,
    setting: str,
    config: Any,
    options: Options,
    given: Mapping[str, str],
    arguments: Sequence[str],
) -> RunDirectory:
    def begin_inside(
        path: epath.Path, inner: ExperimentFile, setting: str, shared: Mapping[str, str]
    ) -> RunDirectory:
        path.mkdir(parents=True, exist_ok=True)  # shared places are seen from here
        run, config = run_directory.free(path), inner.settings[setting]
        return _begin(run, inner, setting, config, options, shared, arguments)

    assets = file.assets(config)  # first, since data may be missing; nothing has been written yet
    content = {
        "experiment": file.name,
        "setting": setting,
        "config": file.config_to_json(config),
        "options": dataclasses.asdict(options),
        "requires": requirements.places(run, file, setting, given, begin_inside),
    }
    return run_directory.create(run.path, content, file, assets, arguments)


def options_of(run: RunDirectory) -> Options:
    """How a run was begun."""
    content = run.read("config.json")["options"]
    nested = {
        "mesh": MeshShape(**content["mesh"]),
        "parallel": Parallel(**content.get("parallel", {})),  # older runs had no choice
    }
    return Options(**content | nested)
