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
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from jaxgen.errors import UserError
from jaxgen.experiment import Best
from jaxgen.training.fingerprint import fingerprint
from jaxgen.training.metrics import is_remote
from jaxgen.training.state import TrainState

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
        self._best = best
        self._read_only = read_only
        self._half_written = [] if read_only else self._find_half_written()
        kept: list[Any] = [policies.LatestN(keep)]
        if best is not None:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best.score],
                    # Orbax keeps the last of the ascending order.
                    reverse=not best.higher_is_better,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
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
        ranked = self._best is not None and self._best.score in scores
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{part: ocp.args.StandardSave(tree) for part, tree in parts.items()},
                    **{_PROGRESS: ocp.args.JsonSave(progress)},
                ),
                metrics=dict(scores) if ranked else None,
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
        """Lets go of the directory and of the writing threads."""
        self._manager.close()

    def steps(self) -> list[int]:
        """The whole checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the best score; None where nothing is scored."""
        if self._best is None:
            return None
        scored = {
            step: self._progress(step)["scores"].get(self._best.score) for step in self.steps()
        }
        ranked = {step: score for step, score in scored.items() if score is not None}
        pick = max if self._best.higher_is_better else min
        return pick(ranked, key=lambda step: ranked[step]) if ranked else None

    def restore(self, abstract: TrainState, parts: tuple[str, ...] = PARTS) -> Restored | None:
        """Reads the newest checkpoint that is whole into the shapes and shardings of `abstract`.

        Half-written and damaged ones are named in the log and passed over; damaged ones are moved
        aside to `damaged-N`, so that the step can be saved anew. None if nothing is left.

        Raises:
            UserError: if a checkpoint is of another shape; it names the first leaf that differs.
        """
        for name in self._half_written:
            log.warning("Checkpoint %s is half-written; it is skipped.", name)
        for step in reversed(self.steps()):
            try:
                return self.restore_step(step, abstract, parts)
            except Damaged as damage:
                log.warning("%s It is skipped.", damage)
                if not self._read_only:
                    self._set_aside(step)
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
        self._check_shapes(step, wanted)
        try:
            read = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{part: ocp.args.StandardRestore(tree) for part, tree in wanted.items()}
                ),
            )
        except Exception as error:
            raise Damaged(
                step, self._directory, f"it can't be read ({_first_line(error)})"
            ) from error
        for part in wanted:
            if fingerprint(read[part]) != progress["fingerprints"][part]:
                raise Damaged(step, self._directory, f"its {part} are not what was written")
        state = dataclasses.replace(
            abstract,
            step=jax.device_put(jax.numpy.int32(step), abstract.step.sharding),
            **{part: read[part] for part in wanted},
        )
        return Restored(state=state, step=step, scores=progress["scores"])

    def _progress(self, step: int) -> dict[str, Any]:
        try:
            read = self._manager.restore(
                step, args=ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()})
            )[_PROGRESS]
            if not {"step", "scores", "fingerprints"} <= set(read):
                raise ValueError("its progress page lacks entries")
            return read
        except Exception as error:
            raise Damaged(
                step, self._directory, f"it can't be read ({_first_line(error)})"
            ) from error

    def _check_shapes(self, step: int, wanted: Mapping[str, Any]) -> None:
        try:
            saved = self._manager.item_metadata(step)
            trees = {part: saved[part] for part in wanted}
        except Exception as error:
            raise Damaged(
                step, self._directory, f"it can't be read ({_first_line(error)})"
            ) from error
        for part, tree in wanted.items():
            there = _shapes(trees[part])
            for name, shape in _shapes(tree).items():
                if there.get(name) != shape:
                    raise UserError(
                        f"Checkpoint {step} in {self._directory} is of another shape: {part}{name} "
                        f"is {there.get(name, 'missing')} there and {shape} in this experiment; "
                        "take the settings that the run was trained with."
                    )
            for name in there:
                if name not in _shapes(tree):
                    raise UserError(
                        f"Checkpoint {step} in {self._directory} is of another shape: {part}{name} "
                        "is there and not in this experiment; take the settings that the run was "
                        "trained with."
                    )

    def _set_aside(self, step: int) -> None:
        target = self._directory / f"damaged-{step}"
        if target.exists():
            target.rmtree()
        (self._directory / str(step)).rename(target)
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
            f"A checkpoint could not be saved in {self._directory} ({_first_line(error)}); {last}."
        )


class Damaged(Exception):
    """A checkpoint that isn't what was written."""

    def __init__(self, step: int, directory: epath.Path, why: str) -> None:
        super().__init__(f"Checkpoint {step} in {directory} is damaged: {why}.")


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        # Tensorstore writes in C++ and hands on only the message.
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    )


def _shapes(tree: Any) -> dict[str, str]:
    """ "/a/b" -> "float32[3, 4]" for each leaf; orbax and optax name the same keys differently."""
    return {
        "/" + jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{jax.numpy.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
