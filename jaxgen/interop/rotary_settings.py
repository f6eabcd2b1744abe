"""Rotary positions as config.json files describe them, before transformers 5 and since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxgen.errors import UserError
from jaxgen.interop.comparison import arguments_of, kind_of
from jaxgen.interop.config_fields import mapping, number_in
from jaxgen.nn.rotary import Scaling, by_wavelength, interpolated, yarn

# Their names for our scalings, told by the function that each binds its numbers to.
_KINDS = {
    kind_of(interpolated(2.0)): "linear",
    kind_of(by_wavelength(2.0)): "llama3",
    kind_of(yarn(2.0, 1)): "yarn",
}
# Their names for those numbers.
_NAMES = {
    "factor": "factor",
    "original_context": "original_max_position_embeddings",
    ("llama3", "slow"): "low_freq_factor",
    ("llama3", "fast"): "high_freq_factor",
    ("yarn", "slow"): "beta_slow",
    ("yarn", "fast"): "beta_fast",
    ("yarn", "magnitude"): "attention_factor",
}


def base_of(config: Mapping[str, Any], default: float = 10000.0) -> float:
    """The rotary base that config.json gives."""
    return number_in(_settings(config), "rope_theta", number_in(config, "rope_theta", default))


def scaling_of(config: Mapping[str, Any], base: float) -> Scaling | None:
    """What stretches the positions; None for nothing.

    Raises:
        UserError: for ways that aren't known here, and for numbers that are missing.
    """
    settings = _settings(config)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    share = settings.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1):
        raise UserError(f"config.json says partial_rotary_factor = {share}; only 1 is read here.")
    unread = {"mscale", "mscale_all_dim"} & settings.keys()
    if settings.get("truncate") is False or unread or kind not in ("default", *_KINDS.values()):
        raise UserError(
            f"config.json stretches rotary positions by {dict(settings)}, which isn't read here."
        )
    if kind == "default":
        return None
    values: dict[str, Any] = {
        ours if isinstance(ours, str) else ours[1]: number_in(settings, theirs, 0.0)
        for ours, theirs in _NAMES.items()
        if (isinstance(ours, str) or ours[0] == kind) and settings.get(theirs) is not None
    }
    context = config.get("max_position_embeddings")
    if kind != "linear" and context is not None:
        values.setdefault("original_context", number_in(config, "max_position_embeddings", 0.0))
    needed = {"linear": set(), "yarn": {"original_context"}, "llama3": {"slow", "fast"}}[kind]
    needed |= {"factor"}
    if not needed <= values.keys():
        raise UserError(f"config.json doesn't say all numbers of its {kind} rotary positions.")
    if kind == "linear":
        return interpolated(values["factor"])
    return by_wavelength(**values) if kind == "llama3" else yarn(**values, base=base)


def settings_of(rotary: Any) -> dict[str, Any]:
    """What config.json says of a network's rotary positions, for all versions of transformers.

    Raises:
        UserError: for what no config.json can say.
    """
    given = arguments_of(rotary)
    scaling = given["scaling"]
    base = {"rope_theta": given["base"]}
    if scaling is None:
        written: dict[str, Any] = {"rope_type": "default"}
        return {"rope_parameters": written | base, "rope_scaling": None, **base}
    kind = _KINDS.get(kind_of(scaling))
    if kind is None:
        raise UserError(
            "Hugging Face's libraries stretch rotary positions in other ways than this."
        )
    written = {"rope_type": kind}
    for name, value in arguments_of(scaling).items():
        theirs = _NAMES.get(name) or _NAMES.get((kind, name))
        if theirs is not None and value is not None:
            written[theirs] = value
    return {"rope_parameters": written | base, "rope_scaling": written, **base}


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(config, "rope_parameters") or mapping(config, "rope_scaling")
