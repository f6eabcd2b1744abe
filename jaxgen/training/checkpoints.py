"""Checkpoints: asynchronous, atomic, checked. The only file that imports Orbax.

A checkpoint holds each part of the state as an item of its own, so that a sampler can read the
parameters without the optimizer, and a page of JSON: the step (from which the data position
follows), the scores, and a fingerprint of every array. Orbax writes into a temporary directory
and renames it when whole; the fingerprints find what was damaged later, on any file system.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from jaxgen.errors import UserError
from jaxgen.experiment import Best
from jaxgen.parallel.watch import exchange_failed
from jaxgen.training.fingerprint import fingerprint
from jaxgen.training.metrics import is_remote
from jaxgen.training.preservation import NewestAndBest, Ranking
from jaxgen.training.state import TrainState
from jaxgen.training.verification import (
    Damaged,
    check_fingerprints,
    check_shapes,
    first_line,
    unreadable,
)

PARTS = ("params", "variables", "ema", "optimizer_states")
WITHOUT_OPTIMIZER = ("params", "variables", "ema")
_PROGRESS = "progress"
_HALF_WRITTEN = ".orbax-checkpoint-tmp"

log = logging.getLogger("jaxgen")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What came back: the state, the step it was saved after, the scores it had then."""

    state: TrainState
    step: int
    scores: dict[str, float]


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(
        self,
        directory: epath.PathLike,
        keep: int = 2,
        best: Best | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens `directory`, which is made if missing.

        keep: so many of the newest stay, and the best one by `best.score` besides.
        read_only: changes nothing there, so a run can be sampled while it trains.
        """
        self._directory = epath.Path(directory)
        if not is_remote(directory):
            self._directory = self._directory.resolve()  # Orbax takes no relative path
        self._ranking = Ranking(best)
        self._read_only = read_only
        self._half_written = [] if read_only else self._find_half_written()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=NewestAndBest(keep, self.best_step),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
                enable_async_checkpointing=True,
            ),
            item_handlers={
                **{part: ocp.StandardCheckpointHandler() for part in PARTS},
                _PROGRESS: ocp.JsonCheckpointHandler(),
            },
        )
        for step in self.steps() if best is not None else ():
            try:
                self._ranking.note(step, self._progress(step)["scores"])
            except Damaged as damage:
                log.warning("%s It has no score.", damage)

    def save(self, step: int, state: TrainState, scores: Mapping[str, float]) -> None:
        """Begins to save `state` as checkpoint `step`; returns once the arrays are copied.

        Raises:
            UserError: if this save can't begin, or the one before could not be written.
        """
        parts = {
            part: getattr(state, part) for part in PARTS if jax.tree.leaves(getattr(state, part))
        }
        progress = {
            "step": step,
            "scores": dict(scores),
            "fingerprints": {part: fingerprint(tree) for part, tree in parts.items()},
        }
        self._ranking.note(step, scores)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{part: ocp.args.StandardSave(tree) for part, tree in parts.items()},
                    **{_PROGRESS: ocp.args.JsonSave(progress)},
                ),
                force=True,
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until what was saved is whole on disk.

        Raises:
            UserError: if it could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Lets go of the directory and of the writing threads; `wait` first to hear of errors."""
        try:
            self._manager.close()
        except Exception as error:
            # Closing happens while something worse is being told: this is only said beside it.
            log.warning("%s", self._failed(error))

    def steps(self) -> list[int]:
        """The whole checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the best score; None where nothing is scored."""
        return self._ranking.best_of(self.steps())

    def restore(self, abstract: TrainState, parts: tuple[str, ...] = PARTS) -> Restored | None:
        """Reads the newest checkpoint that is whole into the shapes and shardings of `abstract`.

        Half-written and damaged ones are named in the log and passed over; damaged ones are moved
        aside to `damaged-N`, so that the step can be saved anew. None if there are no checkpoints.

        Raises:
            UserError: if a checkpoint is of another shape (it names the first leaf that differs),
                there are checkpoints and none can be read, or processes can't read the same: then
                nothing is moved.
        """
        for name in self._half_written:
            log.warning("Checkpoint %s is half-written; it is skipped.", name)
        damaged = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore_step(step, abstract, parts)
            except Damaged as damage:
                log.warning("%s It is skipped.", damage)
                damaged.append(step)
                continue
            self._check_same(step)
            if not self._read_only:
                for broken in damaged:
                    self._set_aside(broken)
            return restored
        if damaged:
            raise UserError(
                f"None of the checkpoints {sorted(damaged)} in {self._directory} can be read; mend "
                "what keeps them from being read, or move them away to train from the start."
            )
        return None

    def restore_step(
        self, step: int, abstract: TrainState, parts: tuple[str, ...] = PARTS
    ) -> Restored:
        """Reads checkpoint `step`, as `restore` does.

        Parts that aren't asked for stay as they are in `abstract`.

        Raises:
            Damaged: if it can't be read, or isn't what was written.
            UserError: if it is of another shape.
        """
        wanted = {part: getattr(abstract, part) for part in parts}
        wanted = {part: tree for part, tree in wanted.items() if jax.tree.leaves(tree)}
        progress = self._progress(step)
        check_shapes(step, self._directory, self._saved_shapes(step, wanted), wanted)
        with self._reading(step):
            read = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{part: ocp.args.StandardRestore(tree) for part, tree in wanted.items()}
                ),
            )
        trees = {part: read[part] for part in wanted}
        check_fingerprints(step, self._directory, trees, progress["fingerprints"])
        state = dataclasses.replace(
            abstract,
            step=jax.device_put(jax.numpy.int32(step), abstract.step.sharding),
            **trees,
        )
        return Restored(state=state, step=step, scores=progress["scores"])

    def _progress(self, step: int) -> dict[str, Any]:
        with self._reading(step):
            read: dict[str, Any] = self._manager.restore(
                step, args=ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()})
            )[_PROGRESS]
            if not {"step", "scores", "fingerprints"} <= set(read):
                raise ValueError("its progress page lacks entries")
        return read

    def _saved_shapes(self, step: int, parts: Iterable[str]) -> dict[str, Any]:
        with self._reading(step):
            saved = self._manager.item_metadata(step)
        return {part: saved.get(part) for part in parts}

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Raises `Damaged` for what fails within, unless another process was lost meanwhile."""
        try:
            yield
        except Exception as error:
            if exchange_failed(error):
                raise
            raise unreadable(step, self._directory, error) from error

    def _check_same(self, step: int) -> None:
        """Raises a `UserError` unless all processes could read the same checkpoint."""
        if jax.process_count() == 1:
            return
        found = multihost_utils.process_allgather(np.int32(step))
        if np.any(found != step):
            raise UserError(
                f"Process {jax.process_index()} could read checkpoint {step} in {self._directory} "
                "and another process could not: see that all hosts can read it, then resume."
            )

    def _set_aside(self, step: int) -> None:
        target = self._directory / f"damaged-{step}"
        if jax.process_index() == 0:
            if target.exists():
                target.rmtree()
            (self._directory / str(step)).rename(target)
        multihost_utils.sync_global_devices(f"{step} is set aside")
        self._manager.reload()
        log.warning("It stays in %s, out of the way.", target)

    def _find_half_written(self) -> list[str]:
        if not self._directory.exists():
            return []
        return sorted(p.name for p in self._directory.iterdir() if _HALF_WRITTEN in p.name)

    def _failed(self, error: Exception) -> UserError:
        whole = self.steps()
        last = f"the last whole one is {whole[-1]}" if whole else "there is none before it"
        if _is_disk_full(error):
            return UserError(
                f"The disk of {self._directory} is full, so a checkpoint could not be saved; "
                f"{last}: free some space, then resume."
            )
        return UserError(
            f"A checkpoint could not be saved in {self._directory} ({first_line(error)}); {last}."
        )


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        # Tensorstore writes in C++ and hands on only the message.
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
