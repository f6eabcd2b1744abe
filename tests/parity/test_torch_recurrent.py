"""Recurrent layers are PyTorch's on the same weights: outputs, last states and every slope."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop.torch_recurrent import layer_from_torch, stack_from_torch, stack_to_torch
from jaxgen.nn.recurrent_cells import GRU, LSTM, Elman
from jaxgen.nn.recurrent_stack import BothWays, RecurrentStack

torch = pytest.importorskip("torch")
# PyTorch says of projections that it has no fast way for them.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

KINDS = {
    "elman": (torch.nn.RNN, partial(Elman, 7), {}),
    "lstm": (torch.nn.LSTM, partial(LSTM, 7), {}),
    "projected": (torch.nn.LSTM, partial(LSTM, 7, projection=4), {"proj_size": 4}),
    "gru": (torch.nn.GRU, partial(GRU, 7), {}),
}
X = np.random.default_rng(0).normal(size=(3, 20, 5)).astype(np.float32)
UP = np.random.default_rng(1).normal(size=(3, 20, 7)).astype(np.float32)


def weights_of(module, of=lambda parameter: parameter):
    return {name: of(leaf).detach().numpy() for name, leaf in module.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_and_their_slopes(kind):
    made, layer, flags = KINDS[kind]
    torch.manual_seed(0)
    theirs = made(5, 7, num_layers=2, batch_first=True, **flags)
    x = torch.tensor(X, requires_grad=True)
    y, last = theirs(x)
    up = UP[..., : y.shape[-1]]
    (y * torch.tensor(up)).sum().backward()

    layers, stack = [layer(), layer()], RecurrentStack([layer, layer])
    params = jax.tree.map(jnp.asarray, stack_from_torch(weights_of(theirs), layers))

    @jax.jit
    def run(params, x):
        def total(params, x):
            y, carry = stack.apply({"params": params}, x)
            return (y * up).sum(), (y, carry)

        return jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)

    (of_params, of_x), (found, carry) = run(params, jnp.asarray(X))
    close = partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
    close(found, y.detach().numpy())
    close(of_x, x.grad.numpy())
    hidden = last[0] if isinstance(last, tuple) else last
    for number, each in enumerate(carry):
        close(each[0], hidden[number].detach().numpy())
    slopes = weights_of(theirs, lambda parameter: parameter.grad)
    for name, slope in stack_to_torch(of_params, layers).items():
        if not name.startswith("bias_hh"):
            close(slope, slopes[name])
    if kind == "gru":
        close(of_params["layer_0"]["candidate_bias"][0], slopes["bias_hh_l0"][14:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_comes_back_and_torch_takes_it(kind):
    made, layer, flags = KINDS[kind]
    torch.manual_seed(1)
    theirs = made(5, 7, num_layers=1, batch_first=True, **flags)
    params = stack_from_torch(weights_of(theirs), [layer()])
    other = made(5, 7, num_layers=1, batch_first=True, **flags)
    written = stack_to_torch(params, [layer()])
    other.load_state_dict({name: torch.tensor(leaf) for name, leaf in written.items()})
    with torch.no_grad():
        first, second = theirs(torch.tensor(X))[0], other(torch.tensor(X))[0]
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_both_ways_with_padding():
    torch.manual_seed(2)
    theirs = torch.nn.LSTM(5, 7, bidirectional=True, batch_first=True)
    sizes = [20, 13, 6]
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(X), sizes, batch_first=True)
    with torch.no_grad():
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    params = {
        name: layer_from_torch(weights_of(theirs), LSTM(7), 0, backward)
        for name, backward in (("forward", False), ("backward", True))
    }
    params = jax.tree.map(jnp.asarray, params)
    reads = np.arange(20)[None, :] < np.array(sizes)[:, None]
    layer = BothWays(partial(LSTM, 7), partial(LSTM, 7))
    found, _ = layer.apply({"params": params}, jnp.asarray(X), jnp.asarray(reads))
    np.testing.assert_allclose(np.where(reads[..., None], found, 0), y.numpy(), atol=1e-5)
