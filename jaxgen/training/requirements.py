"""The runs that a run builds on: where they lie, and whether they are still what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from jaxgen.errors import UserError
from jaxgen.experiment import Model
from jaxgen.training import experiment_file, run_directory
from jaxgen.training.experiment_file import ExperimentFile
from jaxgen.training.fingerprint import fingerprint
from jaxgen.training.run_directory import RunDirectory

# (directory, file, setting, places of what that run builds on in turn)
Begin = Callable[[epath.Path, ExperimentFile, str, Mapping[str, str]], Any]

_KNOWN_AS = "requires.json"


def places(
    run: RunDirectory,
    file: ExperimentFile,
    setting: str,
    given: Mapping[str, str],
    begin: Begin,
) -> dict[str, str]:
    """Where each run that `file` builds on lies, seen from `run`; those not given are begun inside.

    A run begun inside takes the setting of the same name if it has one. What it builds on in turn
    it shares with `run`, where both ask for the same experiment by the same name.

    Raises:
        UserError: if a given run is of another experiment.
    """
    found: dict[str, str] = {}
    needed = {
        name: experiment_file.read(experiment_file.find(str(file.path.parent / path)))
        for name, path in file.requires.items()
    }
    for name, inner in sorted(needed.items(), key=lambda pair: len(pair[1].requires)):
        if name in given:
            there = run_directory.open_run(run.path / given[name]).read("config.json")["experiment"]
            if there != inner.name:
                raise UserError(
                    f"{given[name]} is a run of {there!r}; {file.name} needs one of {inner.name!r}."
                )
            found[name] = given[name]
            continue
        shared = {
            other: _from_inside(found[other])
            for other, path in inner.requires.items()
            if other in found and path == file.requires.get(other)
        }
        own = setting if setting in inner.settings else "default"
        begin(run.required(name), inner, own, shared)
        found[name] = f"requires/{name}"
    return {name: found[name] for name in file.requires}


def remember(run: RunDirectory, found: Mapping[str, str]) -> None:
    """Writes down the `fingerprints` of what the run builds on; once, when it begins."""
    if found and not (run.path / _KNOWN_AS).exists():
        run.write(_KNOWN_AS, dict(found))


def check(run: RunDirectory, found: Mapping[str, str], places: Mapping[str, str]) -> None:
    """Raises UserError if one of the models isn't the one that the run was trained on.

    found: their `fingerprints` as they are now.
    """
    if not (run.path / _KNOWN_AS).exists():
        return
    known = run.read(_KNOWN_AS)
    for name, place in places.items():
        if found[name] != known.get(name):
            raise UserError(
                f"{run.path} was trained on another {name} than the one that is now in "
                f"{run.path / place}: put that one back, or train anew."
            )


def fingerprints(required: Mapping[str, Model]) -> dict[str, str]:
    """One for each of the models; several processes have to ask together."""
    return {
        name: "-".join(f"{number:08x}" for number in fingerprint((model.params, model.variables)))
        for name, model in required.items()
    }


def _from_inside(place: str) -> str:
    """A place as seen from a run two directories further in: all inside moves together."""
    return place if epath.Path(place).is_absolute() else f"../../{place}"
