"""The network: its initialization, its switches that must change nothing, its axis names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec
from small_transformers import GATED, LEARNED, NETWORKS, ROTARY, VOCABULARY, parameters

from jaxgen.families.autoregressive.transformer import muon_matrices
from jaxgen.parallel.layout import BATCH_AXES, RULES
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import shardings
from jaxgen.training.optimizers import muon

TOKENS = jax.random.randint(jax.random.key(5), (3, 12), 0, VOCABULARY)


def total_and_gradient(network, params, deterministic=True):
    def total(params):
        logits = network.apply(
            {"params": params},
            TOKENS,
            deterministic=deterministic,
            rngs=None if deterministic else {"dropout": jax.random.key(1)},
        )
        return jnp.square(logits).mean()

    return jax.jit(jax.value_and_grad(total))(params)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_token_sees_only_what_came_before(name):
    params = parameters(NETWORKS[name])
    run = jax.jit(lambda tokens: NETWORKS[name].apply({"params": params}, tokens))
    changed = run(TOKENS.at[:, 7].set((TOKENS[:, 7] + 1) % VOCABULARY))
    whole = run(TOKENS)
    np.testing.assert_array_equal(changed[:, :7], whole[:, :7])
    assert np.abs(changed[:, 7:] - whole[:, 7:]).min(-1).max() > 1e-3


@pytest.mark.parametrize("switch", [{"unroll": 2}, {"remat": True}])
def test_unrolling_and_rematerialisation_change_nothing(switch):
    network = LEARNED.clone(dropout=0.2)
    params = parameters(network)
    plain = total_and_gradient(network, params, deterministic=False)
    other = total_and_gradient(network.clone(**switch), params, deterministic=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, other)


def test_initialization_is_gpt2s():
    boxed = jax.jit(LEARNED.clone(width=256).init)(jax.random.key(0), TOKENS)["params"]
    params = meta.unbox(boxed)
    blocks = params["blocks"]
    for kernel in (
        params["tokens"]["embedding"],
        blocks["attention"]["query"]["kernel"],
        blocks["mlp"]["up"]["kernel"],
    ):
        np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.05)
    for kernel in (blocks["attention"]["out"]["kernel"], blocks["mlp"]["down"]["kernel"]):
        np.testing.assert_allclose(np.std(kernel), 0.02 / np.sqrt(2 * 2), rtol=0.05)
    # Two layers must not start the same.
    first, second = blocks["mlp"]["up"]["kernel"]
    assert np.abs(first - second).max() > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_names_its_axes(name):
    boxed = jax.eval_shape(NETWORKS[name].init, jax.random.key(0), TOKENS)["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))
    for leaf in leaves:
        assert len(leaf.names) == leaf.value.ndim
        assert all(axis is None or axis in RULES for axis in leaf.names)


def test_muon_moves_the_blocks_kernels_and_nothing_else():
    params = parameters(ROTARY)
    optimizer = muon(1.0, muon_matrices, adam_learning_rate=0.0)
    gradient = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape), params)
    moves, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    for path, move in jax.tree.leaves_with_path(moves):
        names = [key.key for key in path]
        if names[0] != "blocks" or names[-1] != "kernel":
            assert not np.any(move), names
            continue
        # Orthogonalized: each layer's matrix moves by singular values near 1.
        inputs = move.shape[1] if names[-2] != "out" else move.shape[1] * move.shape[2]
        for layer in move.reshape(move.shape[0], inputs, -1):
            values = np.linalg.svd(np.asarray(layer), compute_uv=False)
            scale = np.sqrt(max(1, layer.shape[1] / layer.shape[0]))
            assert values.min() / scale > 0.6 and values.max() / scale < 1.3, (names, values)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    network = GATED.clone(dtype=jnp.bfloat16)
    params = parameters(network)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    exact = jax.jit(GATED.apply)({"params": params}, TOKENS)
    rounded = jax.jit(network.apply)({"params": params}, TOKENS)
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


def test_the_same_numbers_on_every_mesh():
    params = parameters(ROTARY)
    boxed = jax.eval_shape(ROTARY.init, jax.random.key(0), TOKENS)["params"]
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    split_params = jax.device_put(params, shardings(boxed, mesh))
    kernel = split_params["blocks"]["attention"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4

    def total(params, tokens):
        return jnp.square(ROTARY.apply({"params": params}, tokens)).mean()

    tokens = jnp.concatenate([TOKENS, TOKENS[:1]])
    plain = jax.jit(jax.value_and_grad(total))(params, tokens)
    with jax.set_mesh(mesh):
        tokens = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec(BATCH_AXES)))
        split = jax.jit(jax.value_and_grad(total))(split_params, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain, split)
