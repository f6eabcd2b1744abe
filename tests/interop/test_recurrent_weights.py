"""Recurrent weights go to PyTorch's names and come back, and what doesn't fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgen.errors import UserError
from jaxgen.interop.torch_recurrent import (
    layer_from_torch,
    layer_to_torch,
    stack_from_torch,
    stack_to_torch,
)
from jaxgen.nn.recurrent_cells import GRU, LSTM, Elman
from jaxgen.parallel.sharding import unbox

X = jnp.zeros((1, 2, 5))


@pytest.mark.parametrize("layer", [Elman(6), LSTM(6), LSTM(6, projection=3), GRU(6)])
def test_a_file_keeps_everything(layer, tmp_path):
    shapes = unbox(jax.eval_shape(layer.init, jax.random.key(0), X))["params"]
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: noise.normal(size=leaf.shape).astype(np.float32), shapes)
    file = tmp_path / "layer.safetensors"
    save_file(stack_to_torch({"layer_0": params}, [layer]), file)
    found = stack_from_torch(load_file(file), [layer])["layer_0"]
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_what_does_not_fit_is_named():
    shapes = unbox(jax.eval_shape(LSTM(6).init, jax.random.key(0), X))["params"]
    weights = layer_to_torch(jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes), LSTM(6))
    with pytest.raises(UserError, match="no weight weight_ih_l1"):
        layer_from_torch(weights, LSTM(6), 1)
    with pytest.raises(UserError, match=r"weight_ih_l0 has the shape \(24, 5\) and \(18, 5\)"):
        layer_from_torch(weights, GRU(6))
    with pytest.raises(UserError, match="no peepholes"):
        layer_from_torch(weights, LSTM(6, peepholes=True))
