"""Runs from beginning to end: begin one, carry one on, load what one has made."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from jaxgen.errors import UserError
from jaxgen.experiment import Batch, Experiment, Model
from jaxgen.parallel.hosts import ALONE, Hosts
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training import drawing, experiment_file, requirements, run_directory, state
from jaxgen.training.beginning import Options, options_of
from jaxgen.training.checkpoints import WITHOUT_OPTIMIZER, Checkpoints
from jaxgen.training.goodput import process_began
from jaxgen.training.loop import fit
from jaxgen.training.prepared import first_row, prepare_state
from jaxgen.training.run_directory import RunDirectory
from jaxgen.training.verification import Damaged

log = logging.getLogger("jaxgen")

_ROW = "batch.json"


@dataclass(frozen=True)
class LoadedModel:
    """A trained model and all that is needed to use it.

    params: the moving averages where there are any (unless they were declined).
    network: the Linen module (or whatever the experiment calls its network).
    kept: what the run kept of its data, and where it kept nothing by that name, what the runs that
        it builds on did: the contents of files by name.
    step: the checkpoint it comes from.
    """

    params: Any
    variables: Any
    network: Any
    config: Any
    experiment: Experiment
    kept: Mapping[str, bytes]
    step: int

    @property
    def model(self) -> Model:
        """The pytree that samplers and evaluations take."""
        return Model(params=self.params, variables=self.variables)


def carry_on(
    run: RunDirectory,
    options: Options | None = None,
    hosts: Hosts = ALONE,
    profile: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Trains a run to its end, from its newest whole checkpoint or from the start.

    options: as the run was begun with, unless given: for this time only.
    hosts, profile: as in `fit`.

    Returns the last scores, which are in `scores.json` too.

    Raises:
        UserError: for everything `fit` raises it for, and if another process trains there.
        Interrupted: after a signal.
    """
    content = run.read("config.json")
    options = options or options_of(run)
    began = process_began()
    with run_directory.locked(run.path) if hosts.first else nullcontext():
        for name, place in content["requires"].items():
            needed = run_directory.open_run(_required(run, place))
            if not _finished(needed):
                log.info("%s builds on its %s, trained first.", content["experiment"], name)
                carry_on(needed, hosts=hosts)
                began = time.time()
        resuming = run.checkpoints.exists()
        # Nobody makes them, here or in a run that another one builds on, before all have looked.
        hosts.barrier(f"looked for checkpoints in {run.path.resolve()}")
        if resuming:
            for difference in run_directory.changed_environment(run):
                log.warning("Not as when the run began, so not bitwise the same: %s.", difference)
        mesh = make_mesh(options.mesh)
        experiment, _, _ = _built(run, mesh, begins=not resuming and hosts.first)
        log.info("%s (%s), in %s", content["experiment"], content["setting"], run.path)
        if hosts.first and not (run.path / _ROW).exists():
            run.write(_ROW, _shapes(first_row(experiment)))
        if options.checkpoint_every:
            experiment = dataclasses.replace(experiment, checkpoint_every=options.checkpoint_every)
        final, scores = fit(
            experiment,
            run,
            mesh,
            resume=resuming,
            keep=options.keep,
            workers=options.workers,
            parallel=options.parallel,
            hosts=hosts,
            profile=profile,
            began=began,
        )
        if hosts.first:
            keep_scores(run, int(final.step), True, scores)
    return scores


def load(
    path: epath.PathLike,
    checkpoint: str | int = "best",
    ema: bool = True,
    mesh: Mesh | None = None,
) -> LoadedModel:
    """The model that a run has made so far.

    checkpoint: "best" (the last one where nothing is scored), "last", or a step.
    ema: take the moving averages where there are any.
    mesh: where to put it; the first device alone if not given.

    Raises:
        UserError: if the directory is no run, or has no such checkpoint.
    """
    run = run_directory.open_run(path)
    mesh = mesh or make_mesh(MeshShape(), jax.local_devices()[:1])
    experiment, config, kept = _built(run, mesh)
    _, abstract = prepare_state(experiment, mesh, _row(run, experiment))
    checkpoints = Checkpoints(run.checkpoints, best=experiment.best, read_only=True)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"{run.path} has no checkpoint yet; train it, or `jaxgen resume` it.")
        if checkpoint == "last" or (checkpoint == "best" and checkpoints.best_step() is None):
            restored = checkpoints.restore(abstract, WITHOUT_OPTIMIZER)
            if restored is None:
                raise UserError(f"{run.path} has no checkpoint that is whole.")
        else:
            step = checkpoints.best_step() if checkpoint == "best" else _number(checkpoint)
            if step is None or step not in steps:
                raise UserError(f"{run.path} has no checkpoint {checkpoint}; it has {steps}.")
            restored = checkpoints.restore_step(step, abstract, WITHOUT_OPTIMIZER)
    except Damaged as damage:
        raise UserError(f"{damage} Take another one, or `jaxgen resume {run.path}`.") from damage
    finally:
        checkpoints.close()
    made = state.model(restored.state, ema)
    return LoadedModel(
        params=made.params,
        variables=made.variables,
        network=experiment.network,
        config=config,
        experiment=experiment,
        kept=kept,
        step=restored.step,
    )


def experiment_of(path: epath.PathLike) -> Experiment:
    """The experiment of a run, without its parameters.

    Raises:
        UserError: if the directory is no run.
    """
    return _built(run_directory.open_run(path), make_mesh(MeshShape(), jax.local_devices()[:1]))[0]


def evaluate(loaded: LoadedModel, only: str = "") -> dict[str, float]:
    """All of the experiment's scores for a loaded model, as the loop computes them at its step.

    only: the name of the one evaluation to compute.
    """
    _, _, evaluation = state.random_keys(loaded.experiment.seed)
    key = jax.random.fold_in(evaluation, loaded.step)
    wanted = [each for each in loaded.experiment.evaluations if only in ("", each.name)]
    return drawing.scores(wanted, loaded.model, loaded.experiment.data, key)


def keep_scores(run: RunDirectory, step: int, ema: bool, scores: Mapping[str, float]) -> None:
    """Writes `scores.json`; other scores of the same parameters stay in it."""
    known = run.read("scores.json") if (run.path / "scores.json").exists() else {}
    same = (known.get("step"), known.get("ema")) == (step, ema)
    both = {**(known["scores"] if same else {}), **scores}
    run.write("scores.json", {"step": step, "ema": ema, "scores": both})


def _built(
    run: RunDirectory, mesh: Mesh, begins: bool = False
) -> tuple[Experiment, Any, dict[str, bytes]]:
    """The experiment, its config, and `LoadedModel.kept`.

    Models that it builds on lie on the same mesh.
    """
    content = run.read("config.json")
    file = experiment_file.read(
        run.path / "experiment.py",
        content["experiment"],
    )
    try:
        config = file.config_from_json(content["config"])
    except ValueError as error:
        raise UserError(
            f"{run.path / 'config.json'} does not fit its experiment: {error}"
        ) from error
    required = {
        name: load(_required(run, place), mesh=mesh) for name, place in content["requires"].items()
    }
    models = {name: loaded.model for name, loaded in required.items()}
    # By all processes, whoever writes: the models may lie in parts on all of them.
    found = requirements.fingerprints(models)
    if begins:
        requirements.remember(run, found)
    requirements.check(run, found, content["requires"])
    own = run.kept()
    kept = {name: content for model in required.values() for name, content in model.kept.items()}
    return file.build(config, required, own), config, kept | own


def _shapes(row: Batch) -> dict[str, Any]:
    return {name: [str(leaf.dtype), *leaf.shape] for name, leaf in row.items()}


def _row(run: RunDirectory, experiment: Experiment) -> Any:
    """The first row of the run's data, as shapes: a model is rebuilt where its data is gone."""
    if not (run.path / _ROW).exists():
        return first_row(experiment)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype) for name, (dtype, *shape) in run.read(_ROW).items()
    }


def _required(run: RunDirectory, place: str) -> epath.Path:
    """Runs inside this one are kept relative, so that the whole can be moved."""
    if epath.Path(place).is_absolute() or "://" in place:
        return epath.Path(place)
    there = run.path
    for part in place.split("/"):  # object storage knows no ".."
        there = there.parent if part == ".." else there / part
    return there


def _finished(run: RunDirectory) -> bool:
    if not run.checkpoints.exists():
        return False
    saved = Checkpoints(run.checkpoints, read_only=True)
    try:
        return bool(saved.steps()) and saved.steps()[-1] >= experiment_of(run.path).steps
    finally:
        saved.close()


def _number(checkpoint: str | int) -> int | None:
    return int(checkpoint) if str(checkpoint).isdigit() else None
