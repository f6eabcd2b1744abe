"""What config.json files say, read with a sentence for whatever isn't as it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxgen.errors import UserError
from jaxgen.nn.mlp import Activation, gelu, gelu_tanh

Config = Mapping[str, Any]

# Their names for activations; for one of ours with several names, the first is written.
ACTIVATIONS: Mapping[str, Callable[..., Any]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def size(config: Config, name: str, default: int | None = None) -> int:
    """A positive whole number; `default` where the file says none.

    Raises:
        UserError: for anything else.
    """
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config.json has to say {name}, a positive number, and says {value!r}.")
    return value


def number_in(config: Config, name: str, default: float) -> float:
    """A number of at least 0; `default` where the file says none.

    Raises:
        UserError: for anything else.
    """
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise UserError(f"config.json has to say {name}, a number, and says {value!r}.")
    return value


def mapping(config: Config, name: str) -> Config:
    """An object inside the file, empty where there is none; `UserError` for anything else."""
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise UserError(f"config.json has to say {name}, an object, and says {value!r}.")
    return value


def heads(config: Config, name: str, width: int, depth: str | None = None) -> int:
    """The number of heads, which divides the width unless config.json gives their depth.

    Raises:
        UserError: where it doesn't.
    """
    number = size(config, name)
    given = None if depth is None else config.get(depth)
    if given is None and width % number:
        raise UserError(
            f"By config.json, {name} is {number}, which doesn't divide the width {width}."
        )
    return number


def groups(config: Config, name: str, of: int) -> int:
    """The number of key and value heads, a divisor of all heads' number `of`.

    Raises:
        UserError: where it isn't one.
    """
    number = size(config, name, of)
    if of % number:
        raise UserError(f"By config.json, {name} is {number}, which doesn't divide the {of} heads.")
    return number


def activation(config: Config, name: str, default: str) -> Activation:
    """The activation of that name; `UserError` for one that isn't known here."""
    called = config.get(name, default)
    if called not in ACTIVATIONS:
        raise UserError(
            f"config.json says {name} = {called!r}; here there are {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[called]


def name_of(function: Activation) -> str:
    """Their name of one of our activations; `UserError` for one that they don't have."""
    for name, known in ACTIVATIONS.items():
        if known is function:
            return name
    raise UserError(
        f"Hugging Face's libraries have no name for the activation "
        f"{getattr(function, '__name__', function)!r}."
    )


def refuse_others(config: Config, **only: Any) -> None:
    """Raises a `UserError` where config.json says anything else for these than the value given.

    What it doesn't say is as given.
    """
    for name, value in only.items():
        if config.get(name, value) != value:
            raise UserError(
                f"config.json says {name} = {config[name]!r}, which there isn't here; "
                f"only {value!r} is read."
            )
