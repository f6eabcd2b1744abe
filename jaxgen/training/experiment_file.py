"""Reading an experiment's Python file."""

from __future__ import annotations

import dataclasses
import difflib
import linecache
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic
from etils import epath

from jaxgen.errors import UserError
from jaxgen.experiment import Experiment


@dataclass(frozen=True)
class ExperimentFile:
    """What an experiment's file defines.

    name: the file's stem. source: its text, to be kept with the run.
    config_type: the frozen dataclass `Config`; settings: `SETTINGS`, named `Config`s.
    requires: `REQUIRES`, if there: a name -> the experiment file, beside this one, whose run it is.
    """

    name: str
    path: epath.Path
    source: str
    documentation: str
    config_type: type
    settings: Mapping[str, Any]
    requires: Mapping[str, str]
    _build: Callable[..., Experiment]
    _assets: Callable[[Any], Mapping[str, bytes]] | None = None

    def assets(self, config: Any) -> Mapping[str, bytes]:
        """What a run keeps, file by file: whatever the model needs that its data decides."""
        return self._assets(config) if self._assets else {}

    def build(
        self, config: Any, required: Mapping[str, Any], kept: Mapping[str, bytes]
    ) -> Experiment:
        """The experiment itself.

        required: a loaded model for each name in `requires`; given to `build` if there are any.
        kept: what `assets` made when the run began; given to `build` if the file defines `assets`.
        """
        arguments = [config]
        if self.requires:
            arguments.append(required)
        if self._assets:
            arguments.append(kept)
        return self._build(*arguments)

    def config_to_json(self, config: Any) -> dict[str, Any]:
        """A `Config` as plain JSON values."""
        return pydantic.TypeAdapter(self.config_type).dump_python(config, mode="json")

    def config_from_json(self, values: Mapping[str, Any]) -> Any:
        """The `Config` that `config_to_json` wrote.

        Raises:
            ValueError: if it isn't one.
        """
        known = {field.name for field in dataclasses.fields(self.config_type)}
        if not known >= set(values):
            raise ValueError(f"Config has no {', '.join(sorted(set(values) - known))}")
        return pydantic.TypeAdapter(self.config_type).validate_python(dict(values))


def find(name: str) -> epath.Path:
    """The experiment file called `name`: a path, or the bare name of one in `experiments/`.

    Raises:
        UserError: if there is none; it says which is nearest.
    """
    path = epath.Path(name)
    for candidate in (path, epath.Path("experiments") / f"{name}.py"):
        if candidate.exists() and not candidate.is_dir():
            return candidate
    folder = path.parent if path.suffix == ".py" else epath.Path("experiments")
    there = {file.stem: str(file) for file in sorted(folder.glob("*.py"))}
    near = difflib.get_close_matches(path.stem, there, n=1, cutoff=0.5)
    if near:
        raise UserError(f"There is no experiment {name}; did you mean {there[near[0]]}?")
    known = ", ".join(there) or "no experiments at all"
    raise UserError(f"There is no experiment {name}; {folder} has {known}.")


def read(path: epath.Path, name: str | None = None) -> ExperimentFile:
    """Runs the file at `path` and takes what it defines.

    Raises:
        UserError: if it can't be run, or lacks `Config`, `SETTINGS` with a default, or `build`.
    """
    try:
        source = path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no Python file: {error}.") from error
    module_name = f"jaxgen_experiment_{name or path.stem}"
    module: Any = types.ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # tyro and pydantic look annotations up there
    # For tyro, which reads the comments beside the fields; the file may be on object storage.
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:  # whatever an experiment's file may do wrong
        raise UserError(f"{path} can't be run: {type(error).__name__}: {error}.") from error
    for needed in ("Config", "SETTINGS", "build"):
        if not hasattr(module, needed):
            raise UserError(f"{path} is no experiment: it defines no {needed}.")
    if not _is_dataclass(module.Config) or "default" not in module.SETTINGS:
        raise UserError(
            f"{path} is no experiment: Config must be a dataclass, and SETTINGS have a 'default'."
        )
    return ExperimentFile(
        name=name or path.stem,
        path=path,
        source=source,
        documentation=module.__doc__ or "",
        config_type=module.Config,
        settings=module.SETTINGS,
        requires=getattr(module, "REQUIRES", {}),
        _build=module.build,
        _assets=getattr(module, "assets", None),
    )


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
