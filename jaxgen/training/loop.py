"""The one training loop. It knows updates, batches and scores, and no family of models."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgen.data.loader import load_batches
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, Notice
from jaxgen.parallel.sharding import global_batch
from jaxgen.training import drawing
from jaxgen.training.checkpoints import Checkpoints
from jaxgen.training.interruption import Interrupted, StopRequests
from jaxgen.training.metrics import MetricsWriter, Progress
from jaxgen.training.prepared import prepare
from jaxgen.training.run_directory import RunDirectory
from jaxgen.training.state import TrainState, model
from jaxgen.training.step import reported

log = logging.getLogger("jaxgen")

# So many steps may be under way on the devices before the loop waits for the oldest; it keeps the
# devices busy, and the batches in memory few.
STEPS_UNDER_WAY = 16


@dataclass
class _Pending:
    """Steps whose losses nobody has looked at yet."""

    most: int
    steps: deque[tuple[int, dict[str, Any], Any]]

    def add(self, step: int, metrics: dict[str, Any], finite: Any) -> None:
        self.steps.append((step, metrics, finite))

    def check(self, wait: bool = False) -> None:
        """Raises a `UserError` for the first step that wasn't finite.

        Looks only at steps that are done, unless told to wait for all, or too many are under way.
        """
        while self.steps:
            step, metrics, finite = self.steps[0]
            if not (wait or len(self.steps) > self.most or finite.is_ready()):
                return
            if not finite:
                raise NotFinite(step, {name: float(value) for name, value in metrics.items()})
            self.steps.popleft()


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


class NotFinite(UserError):
    """A loss or a gradient was NaN or infinite."""

    def __init__(self, step: int, metrics: Mapping[str, float]) -> None:
        wrong = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
        super().__init__(
            f"Step {step} was not finite ({', '.join(wrong)}), so training stopped; earlier "
            "checkpoints are kept. Try a lower learning rate, a longer warm-up or clipping."
        )


def fit(
    experiment: Experiment,
    run: RunDirectory,
    mesh: Mesh,
    *,
    resume: bool = False,
    keep: int = 2,
    workers: int = 0,
) -> tuple[TrainState, dict[str, float]]:
    """Trains to the experiment's last step; returns the state and the scores after it.

    Order within a step: update, log, evaluate, preview, save. So a checkpoint always comes after
    every line of `metrics.jsonl` up to its step, and a resumed run repeats none and misses none.

    keep: how many of the newest checkpoints stay, besides the best.
    workers: processes that read data; 0 reads in threads.

    Raises:
        UserError: on a loss that isn't finite, a checkpoint that doesn't fit, a full disk.
        Interrupted: after a signal, when everything is saved.
    """
    prepared = prepare(experiment, mesh)
    log.info("%s", _described(experiment, prepared.abstract, mesh))
    scores: dict[str, float] = {}
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequests())
        stack.enter_context(jax.set_mesh(mesh))
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
        writer = MetricsWriter(run.path, step)
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
            )
        )
        # Simulated devices share the cores: programs run ahead there starve each other's
        # collectives for threads until XLA gives up.
        simulated = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
        pending = _Pending(0 if simulated else STEPS_UNDER_WAY, deque())
        noticed = _Noticed(experiment.notices)

        while step < experiment.steps:
            state, metrics, finite = prepared.train_step(
                state, global_batch(next(batches), source.batch_size, mesh)
            )
            step += 1
            pending.add(step, metrics, finite)
            pending.check()
            last = step == experiment.steps

            if step % experiment.log_every == 0 or last:
                pending.check(wait=True)
                ran = jax.device_get(reported(experiment.updates, metrics, step - 1))
                values = {name: float(value) for name, value in sorted(ran.items())}
                writer.write(step, values)
                losses = {name: v for name, v in values.items() if name.endswith("/loss")}
                writer.write_timing(step, progress.update(step, losses))
                noticed.look(step, values)

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
                key = jax.random.fold_in(prepared.evaluation_key, step)
                measured = drawing.scores(evaluations, model(state), experiment.data, key)
                if measured:
                    scores = measured
                    writer.write(step, measured)
                    progress.clear()
                    log.info("step %d  %s", step, _listed(measured))
                    noticed.look(step, measured)
                for preview in previews:
                    sampler = experiment.samplers[preview.sampler]
                    artifact = drawing.draw(sampler, preview.request, model(state))
                    artifact.save(run.samples(step) / preview.name)

            asked_to_stop = stop.received is not None
            best_measured = experiment.best is not None and experiment.best.score in measured
            if step % experiment.checkpoint_every == 0 or last or asked_to_stop or best_measured:
                pending.check(wait=True)
                if not _finite(state):
                    raise NotFinite(step, {"the state after it": math.nan})
                writer.sync()
                checkpoints.save(step, state, measured)
            if evaluations or previews or step % experiment.checkpoint_every == 0:
                progress.skip_time(step)
            if asked_to_stop and not last:
                checkpoints.wait()
                raise Interrupted(stop.received or 0, step)
        checkpoints.wait()
        if stop.received is not None:  # in the last step: whoever builds on this run stops too
            raise Interrupted(stop.received, step)
    return state, scores


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
