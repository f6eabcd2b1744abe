"""The transformer's small layers against their papers' formulas, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgen.nn.embedding import TokenEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP, GatedMLP, gelu, gelu_tanh, squared_relu
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.places import Places
from jaxgen.nn.rotary import rotary_angles, rotate
from jaxgen.nn.self_attention import SelfAttention

X = jax.random.normal(jax.random.key(0), (2, 3, 8)) * 3 + 1


def initialized(module, *arguments):
    """The module's output and its parameters, as numpy; all random instead of 0 or 1."""
    params = meta.unbox(jax.jit(module.init)(jax.random.key(1), *arguments))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(tree, leaves)
    out = jax.jit(module.apply)({"params": params}, *arguments)
    return out, jax.tree.map(np.asarray, params)


def test_gelu_is_x_times_the_normal_distribution():
    x = np.linspace(-8, 8, 999)
    exact = [0.5 * v * (1 + jax.scipy.special.erf(v / np.sqrt(2))) for v in x[::100]]
    np.testing.assert_allclose(gelu(jnp.asarray(x[::100])), exact, atol=2e-6)
    np.testing.assert_allclose(gelu(jnp.asarray(x)), jax.nn.gelu(x, approximate=False), atol=2e-6)
    np.testing.assert_allclose(gelu_tanh(jnp.asarray(x)), jax.nn.gelu(x), atol=2e-6)
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(x))
    theirs = jax.vmap(jax.grad(lambda v: jax.nn.gelu(v, approximate=False)))(jnp.asarray(x))
    np.testing.assert_allclose(slope, theirs, atol=2e-6)


def test_squared_relu():
    np.testing.assert_array_equal(squared_relu(jnp.asarray([-2.0, 0.0, 3.0])), [0, 0, 9])


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias):
    out, params = initialized(LayerNorm(bias=bias), X)
    x = np.asarray(X, np.float64)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = normal * params["scale"] + (params["bias"] if bias else 0)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert ("bias" in params) == bias


def test_rms_norm():
    out, params = initialized(RMSNorm(), X)
    x = np.asarray(X, np.float64)
    normal = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, normal * params["scale"], atol=1e-5)
    np.testing.assert_allclose(RMSNorm(scale=False).apply({}, X), normal, atol=1e-5)


def test_norms_are_float32_inside_bfloat16():
    x = (X + 300).astype(jnp.bfloat16)  # squares around 90,000, differences lost in bfloat16
    out = LayerNorm(bias=False).apply({"params": {"scale": jnp.ones(8)}}, x)
    wide = np.asarray(x, np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), normal, rtol=0.01, atol=0.01)


def test_linear_over_several_axes():
    out, params = initialized(Linear((4, 5), (None,) * 4, inputs=2), X)
    expected = np.einsum("bij,ijhd->bhd", X, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(out, expected, atol=1e-4)
    kernel = Linear((400, 5), (None,) * 4, inputs=2).init(jax.random.key(0), X)
    # LeCun's variance is 1/fan-in over both input axes.
    deviation = np.std(meta.unbox(kernel)["params"]["kernel"])
    np.testing.assert_allclose(deviation, (3 * 8) ** -0.5, rtol=0.05)


def test_mlps():
    out, p = initialized(MLP(16, activation=squared_relu), X)
    hidden = np.maximum(np.asarray(X) @ p["up"]["kernel"] + p["up"]["bias"], 0) ** 2
    expected = hidden @ p["down"]["kernel"] + p["down"]["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-2)
    out, p = initialized(GatedMLP(16), X)
    gate = np.asarray(X) @ p["gate"]["kernel"]
    hidden = gate / (1 + np.exp(-gate)) * (np.asarray(X) @ p["up"]["kernel"])
    np.testing.assert_allclose(out, hidden @ p["down"]["kernel"], rtol=1e-4, atol=1e-3)


def test_tied_scores_are_products_with_the_embedding():
    tokens = jnp.asarray([[1, 4, 2]])
    module = TokenEmbedding(5, 8)
    out, params = initialized(module, tokens)
    np.testing.assert_array_equal(out[0], params["embedding"][np.array([1, 4, 2])])
    scores = module.apply({"params": params}, X, method="scores")
    np.testing.assert_allclose(scores, np.asarray(X) @ params["embedding"].T, atol=1e-4)


def test_rotary_turns_pairs_by_position():
    positions = jnp.asarray([[0, 1, 70]])
    x = jax.random.normal(jax.random.key(3), (1, 3, 2, 6))
    turned = np.asarray(rotate(x, rotary_angles(positions, 6, base=100.0)))
    for t, position in enumerate([0, 1, 70]):
        for pair in range(3):
            z = np.asarray(x)[0, t, :, pair] + 1j * np.asarray(x)[0, t, :, pair + 3]
            w = z * np.exp(1j * position * 100.0 ** (-2 * pair / 6))
            np.testing.assert_allclose(turned[0, t, :, pair], w.real, atol=1e-5)
            np.testing.assert_allclose(turned[0, t, :, pair + 3], w.imag, atol=1e-5)


def test_rotary_attention_depends_on_distance_alone():
    module = SelfAttention(heads=2, rotary=rotary_angles)
    here = Places(jnp.arange(3)[None, :])
    (out, _), params = initialized(module, X, here)
    far, _ = module.apply({"params": params}, X, Places(jnp.arange(3)[None, :] + 50))
    plain, _ = SelfAttention(heads=2).apply({"params": params}, X, here)
    np.testing.assert_allclose(out, far, rtol=1e-3, atol=1e-3)
    assert np.abs(np.asarray(out - plain)).max() > 0.1


def test_self_attention_written_out():
    module = SelfAttention(heads=4, groups=2, depth=3)
    (out, _), p = initialized(module, X, Places(jnp.arange(3)[None, :]))
    x = np.asarray(X, np.float64)
    query, key, value = (
        np.einsum("btw,whd->bthd", x, p[name]["kernel"]) + p[name]["bias"]
        for name in ("query", "key", "value")
    )
    mixed = np.zeros((2, 3, 4, 3))
    for b, t, h in np.ndindex(2, 3, 4):
        scores = key[b, : t + 1, h // 2] @ query[b, t, h] / np.sqrt(3)
        weights = np.exp(scores - scores.max())
        mixed[b, t, h] = weights / weights.sum() @ value[b, : t + 1, h // 2]
    expected = np.einsum("bthd,hdw->btw", mixed, p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)
