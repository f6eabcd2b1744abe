"""Whether two networks are built alike, told by their fields: what their makers would make."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from jaxgen.errors import UserError
from jaxgen.nn.self_attention import SelfAttention

# What doesn't change which function of its parameters a network is.
_ASIDE = {
    "parent",
    "name",
    "dtype",
    "unroll",
    "remat",
    "dropout",
    "implementation",
    "initializer",
    "query_initializer",
    "output_initializer",
    "embedding_initializer",
}


def difference(network: nn.Module, other: nn.Module) -> str | None:
    """The first field in which they differ, as "attention.window (128 instead of None)".

    Initializers, dropout, dtypes and how it is computed don't count. Makers (`partial`s of modules
    and functions) are compared by all of their arguments, defaults included.
    """
    width = getattr(network, "width", None)
    return _difference("", _described(network, width), _described(other, width))


class Fields(dict[str, Any]):
    """A module's fields; asking for one that it doesn't have is a `UserError`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, name: str) -> Any:
        raise UserError(f"{self._kind} has no {name}, which Hugging Face's architecture asks for.")


def fields_of(maker: Any, width: int | None = None, called: str = "layer") -> Fields:
    """The fields of what a maker of modules makes, defaults included, those not yet given left out.

    width: fills in what `SelfAttention` works out from it.
    called: what it is, for the sentence that refuses it.

    Raises:
        UserError: if it makes no module.
    """
    function, positional, given = _called(maker)
    if not (inspect.isclass(function) and issubclass(function, nn.Module)):
        raise UserError(f"There is {maker!r} where Hugging Face's architecture has a {called}.")
    fields = [field for field in dataclasses.fields(function) if field.init]
    given = dict(zip((field.name for field in fields), positional, strict=False)) | given
    values = Fields(function.__name__)
    for field in fields:
        if field.name in given:
            values[field.name] = given[field.name]
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    if issubclass(function, SelfAttention):
        values["groups"] = values["groups"] or values["heads"]
        if values["output_bias"] is None:
            values["output_bias"] = values["bias"]
        if width is not None:
            values["depth"] = values["depth"] or width // values["heads"]
    return values


def arguments_of(maker: Any) -> dict[str, Any]:
    """The arguments that a maker gives its function, defaults included.

    Raises:
        UserError: if there is no function.
    """
    function, positional, named = _called(maker)
    if not inspect.isfunction(function):
        raise UserError(f"There is {maker!r} where Hugging Face's architecture has a function.")
    bound = inspect.signature(function).bind_partial(*positional, **named)
    bound.apply_defaults()
    return bound.arguments


def kind_of(maker: Any) -> Any:
    """The class or function that a maker calls."""
    return _called(maker)[0]


def _called(maker: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    if isinstance(maker, partial):
        function, positional, named = _called(maker.func)
        return function, (*positional, *maker.args), {**named, **maker.keywords}
    return maker, (), {}


def _described(value: Any, width: int | None) -> Any:
    if isinstance(value, nn.Module):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {"": type(value)} | _each(fields, width)
    if isinstance(value, tuple):
        return {"": tuple} | _each({str(index): each for index, each in enumerate(value)}, width)
    kind = kind_of(value)
    if inspect.isclass(kind) and issubclass(kind, nn.Module):
        return {"": kind} | _each(fields_of(value, width), width)
    if inspect.isfunction(kind):
        return {"": kind} | _each(arguments_of(value), width)
    return value


def _each(fields: Mapping[str, Any], width: int | None) -> dict[str, Any]:
    return {name: _described(each, width) for name, each in fields.items() if name not in _ASIDE}


def _difference(path: str, one: Any, other: Any) -> str | None:
    if isinstance(one, dict) and isinstance(other, dict) and one[""] == other[""]:
        for name in one:
            found = _difference(f"{path}.{name}" if path else name, one[name], other.get(name))
            if found is not None:
                return found
        return None
    return None if one == other else f"{path} ({_called_by(one)} instead of {_called_by(other)})"


def _called_by(value: Any) -> str:
    kind = value[""] if isinstance(value, dict) else value
    return getattr(kind, "__name__", repr(kind))
