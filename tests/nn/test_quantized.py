"""Products in 8 bits: that they are, that they are near the others, and that nothing else is."""

import importlib.util
import sys
from collections import Counter
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from jaxgen.errors import UserError
from jaxgen.families.autoregressive.encoder import Encoder
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.families.diffusion.unet import UNet
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.key_value_cache import CacheRoom
from jaxgen.nn.linear import Linear
from jaxgen.nn.mixture_of_experts import MixtureOfExperts
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import LayerNorm
from jaxgen.nn.quantized import has_products, in_float8, in_int8
from jaxgen.nn.saved_tensors import KEY, MLP_HIDDEN, QUERY, VALUE, saving
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.parallel.mesh import MeshShape, make_mesh

pytestmark = [
    # Qwix asks for a name that Flax has under another.
    pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:cpu has no products of:UserWarning"),
]
needs_qwix = pytest.mark.skipif(
    importlib.util.find_spec("qwix") is None, reason="needs qwix, of the extra quantized"
)

VOCABULARY, TIME = 11, 12
NETWORK = Transformer(
    vocabulary=VOCABULARY,
    width=32,
    layers=2,
    attention=partial(SelfAttention, heads=4),
    mlp=partial(MLP, hidden=64),
    norm=LayerNorm,
    positions=partial(PositionEmbedding, TIME + 1),
    tied=False,
    initializer=nn.initializers.normal(0.1),
)
TOKENS = (jnp.arange(16)[:, None] + 3 * jnp.arange(TIME + 1)[None, :] ** 2) % VOCABULARY
INT8, E4M3, E5M2 = ("int8",) * 2, ("float8_e4m3fn",) * 2, ("float8_e5m2", "float8_e4m3fn")
# Of the two layers, which are one scan: the fused projection, the map out, up and down.
IN_BLOCKS = 4


def parameters(network, *inputs):
    return jax.jit(lambda key: meta.unbox(network.init(key, *inputs)))(jax.random.key(0))


def products(function, *arguments):
    """How many products of matrices, and convolutions, of which formats are in a program."""
    found = Counter()

    def count(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                found[tuple(variable.aval.dtype.name for variable in equation.invars)] += 1
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda part: hasattr(part, "eqns")
            ):
                if hasattr(inner, "eqns"):
                    count(inner.jaxpr if hasattr(inner, "jaxpr") else inner)

    count(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def loss(network, params, tokens=TOKENS):
    logits = network.apply(params, tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


@pytest.fixture(scope="module")
def params():
    return parameters(NETWORK, TOKENS[:, :-1])


@needs_qwix
@pytest.mark.parametrize("quantize", [in_int8, in_float8])
def test_a_product_is_that_of_rounded_rows_and_columns(quantize):
    layer = Linear((24,), ("embed", "mlp"))
    # The largest magnitude is a positive number's, which is rounded to the format's largest. Whole
    # numbers reach from -127.5 to 127.5, and of a negative one it would depend on the last digit.
    x = jax.random.normal(jax.random.key(1), (5, 16)).at[:, 0].set(4.0)
    params = parameters(layer, x)
    kernel = params["params"]["kernel"].at[0].set(1.0)
    params["params"]["kernel"] = kernel

    if quantize is in_int8:
        largest, rounded = 127.5, lambda x: np.clip(np.round(x), -128, 127).astype(int)
    else:
        largest, rounded = 448.0, lambda x: x.astype(jnp.float8_e4m3fn).astype(np.float64)
    x, kernel = np.asarray(x), np.asarray(kernel)
    rows, columns = np.float32(4 / largest), np.float32(1 / largest)
    summed = rounded(x / rows) @ rounded(kernel / columns)
    found = jax.jit(quantize(layer).apply)(params, jnp.asarray(x))
    np.testing.assert_allclose(found, summed * rows * columns, rtol=1e-4, atol=1e-5)
    assert np.abs(found - x @ kernel).max() > 0.01


@needs_qwix
@pytest.mark.parametrize(
    ("quantize", "forward", "backward", "error"),
    [(in_int8, INT8, INT8, 0.05), (in_float8, E4M3, E5M2, 0.25)],
)
def test_value_and_gradient_are_near_float32s(params, quantize, forward, backward, error):
    network = quantize(NETWORK)
    both = jax.value_and_grad(partial(loss, network))
    expected = Counter()
    expected[forward] += IN_BLOCKS
    expected[backward] += 2 * IN_BLOCKS  # one for the inputs, one for the kernel
    found = products(both, params)
    del found["float32", "float32"]  # attention's own, and the head
    assert found == expected

    exact = jax.jit(jax.value_and_grad(partial(loss, NETWORK)))(params)
    value, gradient = jax.jit(both)(params)
    assert 0 < abs(value - exact[0]) < error / 10

    def off(found, exact):
        found, exact = (np.asarray(array, np.float64).ravel() for array in (found, exact))
        return np.linalg.norm(found - exact) / np.linalg.norm(exact)

    errors = jax.tree.map(off, gradient["params"], exact[1]["params"])["blocks"]
    for layer in (*errors["attention"].values(), *errors["mlp"].values()):
        assert 0 < layer["kernel"] < error


@needs_qwix
@pytest.mark.parametrize("quantize", [in_int8, in_float8])
def test_training_follows_bfloat16s(params, quantize):
    wide = NETWORK.clone(dtype=jnp.bfloat16)
    optimizer = optax.adam(optax.linear_schedule(0, 5e-3, 10))

    def run(network):
        @jax.jit
        def steps(params):
            def step(carry, _):
                params, state = carry
                value, slope = jax.value_and_grad(partial(loss, network))(params)
                change, state = optimizer.update(slope, state)
                return (optax.apply_updates(params, change), state), value

            return jax.lax.scan(step, (params, optimizer.init(params)), length=30)[1]

        return steps(params)

    expected, found = run(wide), run(quantize(wide))
    assert found[-1] < 0.05 * found[0]
    # In nats, of 2.5 at first and 0.08 at last. Some steps overshoot, by more or less each time.
    assert 0 < np.abs(found - expected).mean() < 0.05
    assert abs(found[-1] - expected[-1]) < 0.02


@needs_qwix
def test_all_methods_of_a_network_are_reached(params):
    network, tokens = in_int8(NETWORK), TOKENS[:, :-1]
    lengths = jnp.full(len(tokens), TIME)
    prefill = partial(network.apply, method="prefill")
    room = CacheRoom(TIME + 1)
    _, cache = jax.eval_shape(lambda: prefill(params, tokens, lengths, room))
    extend = partial(network.apply, method=network.extend)
    hidden = partial(network.apply, method=network.hidden)
    assert products(lambda: prefill(params, tokens, lengths, room))[INT8] == IN_BLOCKS
    assert products(extend, params, tokens[:, -1:], cache, lengths)[INT8] == IN_BLOCKS
    assert products(hidden, params, tokens)[INT8] == IN_BLOCKS
    assert products(network.clone(unroll=2).apply, params, tokens)[INT8] == IN_BLOCKS


@needs_qwix
def test_layers_are_left_out_by_their_paths(params):
    tokens = TOKENS[:, :-1]
    count = lambda left_out: products(in_int8(NETWORK, left_out).apply, params, tokens)[INT8]
    assert count(()) == IN_BLOCKS + 1
    assert count(("head", "blocks/mlp/.*")) == IN_BLOCKS - 2
    with jax.set_mesh(make_mesh(MeshShape(stage=2, data=1), jax.devices()[:2])):
        assert count(("head", "blocks/mlp/.*")) == IN_BLOCKS - 2
    experts = partial(MixtureOfExperts, experts=2, chosen=1, hidden=16)
    network = NETWORK.clone(mlp=experts)
    mixed = parameters(network, tokens)
    assert products(in_int8(network).apply, mixed, tokens)[INT8] == 2


@needs_qwix
def test_an_encoder_and_a_policy_for_saved_tensors():
    network = Encoder(
        VOCABULARY,
        32,
        2,
        partial(SelfAttention, heads=4, causal=False),
        partial(MLP, hidden=64),
        LayerNorm,
        remat=saving(QUERY, KEY, VALUE, MLP_HIDDEN),
    )
    tokens = TOKENS[:, :-1]
    params = parameters(network, tokens)
    slope = jax.grad(lambda params: in_int8(network).apply(params, tokens).mean())
    # Of the four in the blocks and the one after them, those before a norm are computed again.
    assert products(slope, params)[INT8] == 3 * (IN_BLOCKS + 1) + 2


@needs_qwix
def test_a_unets_convolutions_are_in_int8_and_its_norms_are_not():
    network = UNet(1, (8, 16), 1, head_dim=8)
    picture, time = jnp.ones((2, 4, 4, 1)), jnp.ones(2)
    params = parameters(network, picture, time)
    rounded = products(in_int8(network).apply, params, picture, time)
    # What is traced after it has none of it, though jax remembers its own functions' programs.
    plain = products(network.apply, params, picture, time)
    layers = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel" and path[1].key not in ("first", "last")
    ]
    assert rounded[INT8] == len(layers)
    assert plain == {("float32",) * 2: rounded.total()}
    assert products(in_float8(network).apply, params, picture, time)[E4M3] < rounded[INT8]


@needs_qwix
def test_a_platform_without_such_products_is_told_of():
    with pytest.warns(UserWarning, match="cpu has no products of float8_e4m3fn of its own"):
        in_float8(NETWORK)


def test_which_devices_have_them():
    devices = [
        ("gpu", "NVIDIA A100", 8.0),
        ("gpu", "NVIDIA H100", 9.0),
        ("tpu", "TPU v4", 0.0),
        ("tpu", "TPU v5 lite", 0.0),
        ("tpu", "TPU7x", 0.0),
    ]
    assert [has_products(jnp.dtype("int8"), *device) for device in devices] == [1, 1, 0, 1, 1]
    float8 = jnp.dtype(jnp.float8_e4m3fn)
    assert [has_products(float8, *device) for device in devices] == [0, 1, 0, 0, 1]


def test_without_qwix_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"install jaxgen\[quantized\]"):
        in_int8(NETWORK)
