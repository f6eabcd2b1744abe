"""Flags: a command's fields to an instance of them. The only file that parses flags.

A command lists its fields (`flag`, `group`, `positional`); `parse` makes them one dataclass, lets
tyro fill it, and refuses a misspelt flag by name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from jaxgen.errors import UserError

Field = tuple[str, Any, Any]  # name, annotated type, default, as make_dataclass takes them


def flag(name: str, kind: Any, default: Any, told: str) -> Field:
    """`--name`, a `kind`, explained by `told`."""
    explained = Annotated[kind, tyro.conf.arg(help=told)]
    return name, explained, dataclasses.field(default=default)


def group(name: str, kind: type, default: Any) -> Field:
    """A flag for each field of the dataclass `kind`, by the comment beside it; no prefix."""
    return name, Annotated[kind, tyro.conf.arg(name="")], dataclasses.field(default=default)


def positional(name: str, kind: Any, told: str) -> Field:
    """An argument that must be there, without a flag."""
    explained = Annotated[tyro.conf.Positional[kind], tyro.conf.arg(help=told)]
    return name, explained, dataclasses.field()


def parse(
    fields: Sequence[Field], arguments: Sequence[str], program: str, description: str = ""
) -> Any:
    """An object with an attribute for each of `fields`.

    program: the command so far, as the help names it.

    Raises:
        UserError: for a flag that there isn't; it says which is nearest.
        SystemExit: after the help (0), and after a value that doesn't fit (2).
    """
    flags = dataclasses.make_dataclass("Flags", fields, frozen=True)
    chosen: Any
    chosen, unknown = tyro.cli(
        flags,
        prog=program,
        description=description or None,
        args=list(arguments),
        return_unknown_args=True,
    )
    if unknown:
        known = [f"--{name}" for name in _names(flags)]
        raise UserError(
            f"{program} has no flag {unknown[0]}{nearest(unknown[0].partition('=')[0], known)}; "
            "--help lists them."
        )
    return chosen


def only(kind: type, arguments: Sequence[str]) -> Any:
    """A `kind` by its flags, before anything is known of the others that stand beside them."""
    asked = [argument for argument in arguments if argument not in ("-h", "--help")]
    chosen: Any
    chosen, _ = tyro.cli(kind, args=asked, return_unknown_args=True)
    return chosen


def setting(arguments: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Finds --setting before all other flags, since it gives them their defaults.

    Raises:
        UserError: if there is no such setting.
    """
    for position, argument in enumerate(arguments):
        if argument == "--setting" or argument.startswith("--setting="):
            after = arguments[position + 1] if position + 1 < len(arguments) else ""
            name = argument.partition("=")[2] or after
            if name not in settings:
                raise UserError(
                    f"There is no setting {name!r}; there are {', '.join(settings)}"
                    f"{nearest(name, settings)}."
                )
            return name
    return "default"


def nearest(name: str, known: Iterable[str]) -> str:
    """A question, to be put behind a refusal: which of `known` was meant; "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _names(flags: type, prefix: str = "") -> list[str]:
    names = []
    for name, hint in get_type_hints(flags, include_extras=True).items():
        kind: Any = hint
        while hasattr(kind, "__metadata__"):
            kind = kind.__origin__
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            # What is annotated here is a group of flags without a prefix of its own.
            names += _names(kind, prefix if kind is not hint else f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}".replace("_", "-"))
    return names
