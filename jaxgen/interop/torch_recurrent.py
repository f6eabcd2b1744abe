"""Recurrent layers' weights under the names of PyTorch's `nn.RNN`, `nn.LSTM` and `nn.GRU`.

No PyTorch here: weights are numpy arrays by name, as `safetensors.numpy.load_file` gives them and
`save_file` takes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.experiment import Params
from jaxgen.nn.recurrent_cells import GRU, LSTM, Elman

Weights = Mapping[str, np.ndarray]
Layer = Elman | LSTM | GRU

_GATES = {Elman: 1, LSTM: 4, GRU: 3}


def stack_from_torch(weights: Weights, layers: Sequence[Layer]) -> Params:
    """The parameters of a `RecurrentStack` of these layers; see `layer_from_torch`."""
    return {
        f"layer_{number}": layer_from_torch(weights, layer, number)
        for number, layer in enumerate(layers)
    }


def stack_to_torch(params: Params, layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """The state dict of a module with these layers; see `layer_to_torch`."""
    found: dict[str, np.ndarray] = {}
    for number, layer in enumerate(layers):
        found |= layer_to_torch(params[f"layer_{number}"], layer, number)
    return found


def layer_from_torch(
    weights: Weights, layer: Layer, number: int = 0, backward: bool = False
) -> Params:
    """The parameters of one layer.

    PyTorch adds two biases where one does; they are summed, but for a GRU's candidate, whose two
    are not the same.

    number: which layer of the module it is.
    backward: of a bidirectional module the one that reads back, `BothWays`' backward.

    Raises:
        UserError: where a weight is missing or of another shape, and for layers that PyTorch
            doesn't have.
    """
    kept = {}
    for name, shape in _shapes(layer, weights, _ending(number, backward)).items():
        if name not in weights:
            raise UserError(
                f"there is no weight {name} among {', '.join(weights) or 'none'}: is the layer "
                "of another kind, or has it another number?"
            )
        if weights[name].shape != shape:
            raise UserError(
                f"the weight {name} has the shape {weights[name].shape} and {shape} is needed for "
                f"a width of {layer.width}"
            )
        kept[name.split("_l")[0]] = np.asarray(weights[name], np.float32)
    gates = _GATES[type(layer)]

    def kernel(name: str) -> np.ndarray:
        return kept[name].reshape(gates, layer.width, -1).transpose(2, 0, 1)

    here, there = (kept[name].reshape(gates, layer.width) for name in ("bias_ih", "bias_hh"))
    params: dict[str, Any] = {"input": kernel("weight_ih"), "recurrent": kernel("weight_hh")}
    if isinstance(layer, GRU):
        params["bias"] = here + np.concatenate([there[:2], np.zeros_like(there[2:])])
        params["candidate_bias"] = there[2:]
    else:
        params["bias"] = here + there
    if "weight_hr" in kept:
        params["projection"] = kept["weight_hr"].T
    return params


def layer_to_torch(
    params: Params, layer: Layer, number: int = 0, backward: bool = False
) -> dict[str, np.ndarray]:
    """One layer's part of a state dict; of the two biases the second is 0.

    number, backward: as in `layer_from_torch`.

    Raises:
        UserError: for layers that PyTorch doesn't have.
    """
    _check(layer)
    ours = {name: np.asarray(leaf, np.float32) for name, leaf in params.items()}
    width, gates, ending = layer.width, _GATES[type(layer)], _ending(number, backward)
    second = np.zeros((gates, width), np.float32)
    if isinstance(layer, GRU):
        second[2:] = ours["candidate_bias"]
    found = {
        "weight_ih": ours["input"].transpose(1, 2, 0).reshape(gates * width, -1),
        "weight_hh": ours["recurrent"].transpose(1, 2, 0).reshape(gates * width, -1),
        "bias_ih": ours["bias"].reshape(-1),
        "bias_hh": second.reshape(-1),
    }
    if "projection" in ours:
        found["weight_hr"] = ours["projection"].T
    # Whole copies: safetensors writes an array's memory as it lies.
    return {f"{name}{ending}": np.ascontiguousarray(leaf) for name, leaf in found.items()}


def _ending(number: int, backward: bool) -> str:
    return f"_l{number}_reverse" if backward else f"_l{number}"


def _check(layer: Layer) -> None:
    if isinstance(layer, LSTM) and (layer.peepholes or layer.normalized):
        raise UserError("PyTorch's LSTM has no peepholes and no layer norms: leave them away.")


def _shapes(layer: Layer, weights: Weights, ending: str) -> dict[str, tuple[int, ...]]:
    """The names that the layer needs; what comes in may be of any size."""
    _check(layer)
    rows = _GATES[type(layer)] * layer.width
    projection = layer.projection if isinstance(layer, LSTM) else None
    first = weights.get(f"weight_ih{ending}")
    inputs = first.shape[-1] if first is not None and first.ndim == 2 else 0
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, inputs),
        "weight_hh": (rows, layer.width if projection is None else projection),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    if projection is not None:
        shapes["weight_hr"] = (projection, layer.width)
    return {f"{name}{ending}": shape for name, shape in shapes.items()}
