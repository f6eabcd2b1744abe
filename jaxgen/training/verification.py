"""Whether a checkpoint is what was written, and whether it fits what it is read into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from jaxgen.errors import UserError
from jaxgen.training.fingerprint import fingerprint


class Damaged(Exception):
    """A checkpoint that isn't what was written."""

    def __init__(self, step: int, directory: epath.Path, why: str) -> None:
        super().__init__(f"Checkpoint {step} in {directory} is damaged: {why}.")


def unreadable(step: int, directory: epath.Path, error: Exception) -> Damaged:
    """The damage that shows as an `error` in reading."""
    return Damaged(step, directory, f"it can't be read ({first_line(error)})")


def check_fingerprints(
    step: int, directory: epath.Path, read: Mapping[str, Any], written: Mapping[str, list[int]]
) -> None:
    """Compares the parts that were read with the fingerprints of what was written.

    Raises:
        Damaged: at the first part that differs.
    """
    for part, tree in read.items():
        if fingerprint(tree) != written[part]:
            raise Damaged(step, directory, f"its {part} are not what was written")


def check_shapes(
    step: int, directory: epath.Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Compares the shapes and types of what was saved with those that are wanted, part by part.

    Raises:
        UserError: at the first leaf that differs; it names it.
    """
    other = f"Checkpoint {step} in {directory} is of another shape"
    cure = "take the settings that the run was trained with."
    for part, tree in wanted.items():
        here, there = _shapes(tree), _shapes(saved[part])
        for name, shape in here.items():
            if there.get(name) != shape:
                raise UserError(
                    f"{other}: {part}{name} is {there.get(name, 'missing')} there and {shape} in "
                    f"this experiment; {cure}"
                )
        for name in there:
            if name not in here:
                raise UserError(
                    f"{other}: {part}{name} is there and not in this experiment; {cure}"
                )


def first_line(error: BaseException) -> str:
    """The error's class and the beginning of what it says."""
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0][:200] if said else ''}"


def _shapes(tree: Any) -> dict[str, str]:
    """ "/a/b" -> "float32[3, 4]" for each leaf; orbax and optax name the same keys differently."""
    return {
        "/" + jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{jax.numpy.dtype(leaf.dtype).name}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
