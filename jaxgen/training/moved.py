"""Which part of a parameter tree an update moves."""

from __future__ import annotations

from collections.abc import Callable

from flax import traverse_util

from jaxgen.errors import UserError
from jaxgen.experiment import Params, Path


def split(params: Params, moves: str | Callable[[Path], bool]) -> tuple[Params, Params]:
    """Splits nested dicts in the part that `moves` names and the rest, both pruned.

    Pruned, not masked: an optimizer then holds no state for leaves that it never moves.

    Raises:
        UserError: if nothing is left to move.
    """
    flat = traverse_util.flatten_dict(params)
    if isinstance(moves, str):
        prefix = tuple(moves.split("/")) if moves else ()
        chosen = {path for path in flat if path[: len(prefix)] == prefix}
        said = f"'{moves}'"
    else:
        chosen = {path for path in flat if moves(path)}
        said = "its predicate"
    if not chosen:
        raise UserError(
            f"An update moves nothing: {said} matches none of the parameters, "
            f"whose top level is {', '.join(sorted(params))}."
        )
    return (
        traverse_util.unflatten_dict({path: flat[path] for path in flat if path in chosen}),
        traverse_util.unflatten_dict({path: flat[path] for path in flat if path not in chosen}),
    )


def merge(part: Params, whole: Params) -> Params:
    """`whole` with each leaf of `part` put in its place; the inverse of `split`."""
    return traverse_util.unflatten_dict(
        traverse_util.flatten_dict(whole) | traverse_util.flatten_dict(part)
    )
