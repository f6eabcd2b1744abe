"""The one training loop. It knows updates, batches and scores, and no family of models."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgen.data.loader import Batches, load_batches
from jaxgen.experiment import Experiment, Notice
from jaxgen.parallel.answers import Answers
from jaxgen.parallel.hosts import ALONE, Hosts
from jaxgen.parallel.layout import layout_in_use
from jaxgen.parallel.operations import Operations
from jaxgen.parallel.options import USUAL, Parallel
from jaxgen.parallel.sharding import global_batch
from jaxgen.training import drawing
from jaxgen.training.checkpoints import Checkpoints
from jaxgen.training.goodput import Ledger
from jaxgen.training.interruption import Interrupted, StopRequests
from jaxgen.training.metrics import MetricsWriter, Progress, Unwritten
from jaxgen.training.pending import STEPS_UNDER_WAY, NotFinite, Pending
from jaxgen.training.prepared import operations_of_step, prepare
from jaxgen.training.profiling import Trace, high_water, step_seconds, utilization
from jaxgen.training.run_directory import RunDirectory
from jaxgen.training.stalls import StallWatch
from jaxgen.training.state import TrainState, model
from jaxgen.training.step import reported

log = logging.getLogger("jaxgen")

# So many steps after a signal came to one process, all of them act on it: later than at once, so
# that nobody waits for the answer, and the same for all.
STEPS_TO_HEAR = 2


@dataclass
class _Noticed:
    """Which of the experiment's notices have warned, so that each does so once a trouble."""

    notices: Sequence[Notice]
    standing: set[int] = field(default_factory=set)

    def look(self, step: int, values: Mapping[str, float]) -> None:
        for index, notice in enumerate(self.notices):
            warning = notice(values)
            if warning and index not in self.standing:
                log.warning("step %d  %s", step, warning)
            # A notice that finds none of its values says None, and forgets nothing by that.
            if warning:
                self.standing.add(index)
            elif warning == "":
                self.standing.discard(index)


def fit(
    experiment: Experiment,
    run: RunDirectory,
    mesh: Mesh,
    *,
    resume: bool = False,
    keep: int = 2,
    workers: int = 0,
    parallel: Parallel = USUAL,
    hosts: Hosts = ALONE,
    profile: tuple[int, int] | None = None,
    began: float | None = None,
) -> tuple[TrainState, dict[str, float]]:
    """Trains to the experiment's last step; returns the state and the scores after it.

    Order within a step: update, log, evaluate, preview, save. So a checkpoint always comes after
    every line of `metrics.jsonl` up to its step, and a resumed run repeats none and misses none.

    keep: how many of the newest checkpoints stay, besides the best.
    workers: processes that read data; 0 reads in threads.
    parallel: how the mesh is used.
    hosts: the processes that train together; the first of them writes everything but checkpoints.
    profile: the first and the last step of a trace for XProf, written to `profile/`.
    began: when this life of the run began, as `time.time()` has it; now, if not given.

    Raises:
        UserError: on a loss that isn't finite, a checkpoint that doesn't fit, a full disk.
        Interrupted: after a signal to any of the processes, when everything is saved.
    """
    prepared = prepare(experiment, mesh, parallel)
    log.info("%s", _described(experiment, prepared.abstract, mesh))
    scores: dict[str, float] = {}
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(layout_in_use(prepared.layout))
        checkpoints = Checkpoints(run.checkpoints, keep, experiment.best)
        stack.callback(checkpoints.close)
        restored = checkpoints.restore(prepared.abstract) if resume else None
        if restored is None:
            if resume:
                log.info("There is no whole checkpoint in %s; starting at step 0.", run.path)
            state, step = prepared.create(), 0
        else:
            state, step, scores = restored.state, restored.step, restored.scores
            log.info("Resuming %s after step %d.", run.path, step)
        writer = MetricsWriter(run.path, step) if hosts.first else Unwritten()
        stack.callback(writer.close)
        source = experiment.data["train"]
        batches = stack.enter_context(
            load_batches(source, step, prepared.rows, prepared.repeats, workers)
        )
        progress = stack.enter_context(
            Progress(
                step,
                experiment.steps,
                source.batch_size * prepared.repeats,
                experiment.unit,
                experiment.units_per_row,
                shown=hosts.first,
            )
        )
        # Simulated devices share the cores: programs run ahead there starve each other's
        # collectives for threads until XLA gives up.
        simulated = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
        pending = Pending(0 if simulated else STEPS_UNDER_WAY)
        stalls = stack.enter_context(
            StallWatch(run.path / "stacks", pending.median, jax.process_index())
        )
        signals = Answers(mesh, later=0 if simulated else STEPS_TO_HEAR)
        trace = stack.enter_context(Trace(run.path / "profile", profile, step, experiment.steps))
        noticed = _Noticed(experiment.notices)
        ledger = Ledger(began or time.time(), step)
        compiling, operations = True, Operations()

        while step < experiment.steps:
            trace.before(step + 1)
            stalls.begins(step + 1)
            batch = global_batch(_next(batches, pending, ledger), source.batch_size, mesh)
            with ledger.spent("compile") if compiling else nullcontext():
                if compiling:
                    operations = operations_of_step(experiment, prepared, state, batch, mesh)
                state, metrics, finite = prepared.train_step(state, batch)
            step += 1
            pending.add(step, metrics, finite)
            if compiling:
                pending.skip_time()
                compiling = False
            pending.check()
            asked_to_stop = signals.ask(stop.received or 0)
            last = step == experiment.steps
            trace.after(step)

            if step % experiment.log_every == 0 or last:
                pending.check(wait=True)
                ran = jax.device_get(reported(experiment.updates, metrics, step - 1))
                values = {name: float(value) for name, value in sorted(ran.items())}
                writer.write(step, values)
                losses = {name: v for name, v in values.items() if name.endswith("/loss")}
                timing: dict[str, Any] = progress.update(step, losses)
                timing |= utilization(operations, timing["seconds_per_step"], mesh)
                writer.write_timing(step, timing | step_seconds(pending) | high_water(mesh))
                writer.write_goodput(ledger.line(step))
                noticed.look(step, values)

            stalls.rests()
            evaluations = [
                evaluation
                for evaluation in experiment.evaluations
                if last or (evaluation.every and step % evaluation.every == 0)
            ]
            previews = [
                preview for preview in experiment.previews if last or step % preview.every == 0
            ]
            measured: dict[str, float] = {}
            if evaluations or previews:
                pending.check(wait=True)
                with ledger.spent("evaluation"), layout_in_use(prepared.layout.for_any_rows):
                    key = jax.random.fold_in(prepared.evaluation_key, step)
                    measured = drawing.scores(evaluations, model(state), experiment.data, key)
                    for preview in previews:
                        sampler = experiment.samplers[preview.sampler]
                        artifact = drawing.draw(sampler, preview.request, model(state))
                        if hosts.first:
                            artifact.save(run.samples(step) / preview.name)
                if measured:
                    scores = measured
                    writer.write(step, measured)
                    progress.clear()
                    log.info("step %d  %s", step, _listed(measured))
                    noticed.look(step, measured)

            best_measured = experiment.best is not None and experiment.best.score in measured
            saves = step % experiment.checkpoint_every == 0 or best_measured
            if saves or last or asked_to_stop:
                pending.check(wait=True)
                with ledger.spent("checkpoint"):
                    if not _finite(state):
                        raise NotFinite(step, {"the state after it": math.nan})
                    writer.sync()
                    checkpoints.save(step, state, measured)
            if evaluations or previews or saves:
                progress.skip_time(step)
                pending.skip_time()
            if asked_to_stop and not last:
                checkpoints.wait()
                raise Interrupted(asked_to_stop, step)
        with ledger.spent("checkpoint"):
            checkpoints.wait()
        writer.write_goodput(ledger.line(step))
        # In the last step: whoever builds on this run stops too.
        if asked_to_stop := signals.last(stop.received or 0):
            raise Interrupted(asked_to_stop, step)
    return state, scores


def _next(batches: Batches, pending: Pending, ledger: Ledger) -> Any:
    """The next batch; waiting for it is lost time where the devices have nothing else to do."""
    idle, before = pending.idle, time.perf_counter()
    batch = next(batches)
    if idle:
        ledger.add("data", time.perf_counter() - before)
    return batch


@jax.jit
def _finite(tree: Any) -> jax.Array:
    """Whether every number in `tree` is finite."""
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in numbers]))


def _listed(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def _described(experiment: Experiment, abstract: TrainState, mesh: Mesh) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
    return f"{parameters:,} parameters, {experiment.steps:,} steps on {devices}"
