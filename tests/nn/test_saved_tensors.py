"""Policies of what is kept for the backward pass: the same numbers, and just what they name."""

from collections import Counter
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.errors import UserError
from jaxgen.nn.mlp import MLP, GatedMLP
from jaxgen.nn.norm import LayerNorm
from jaxgen.nn.places import Places
from jaxgen.nn.saved_tensors import (
    ATTENTION,
    BLOCK_INPUT,
    KEY,
    MLP_HIDDEN,
    NAMES,
    QUERY,
    RESIDUAL,
    VALUE,
    offloading,
    saving,
)
from jaxgen.nn.self_attention import CrossAttention, SelfAttention
from jaxgen.nn.transformer_blocks import stacked
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import shardings

Space = jax.memory.Space

LAYERS, BATCH, TIME, WIDTH, HEADS, HIDDEN = 4, 8, 6, 12, 2, 20
X = jax.random.normal(jax.random.key(0), (BATCH, TIME, WIDTH))
# Sizes by which tensors are told apart: there is one key and value head for two query heads.
SHAPES = {
    BLOCK_INPUT: (WIDTH,),
    RESIDUAL: (WIDTH,),
    QUERY: (HEADS, WIDTH // HEADS),
    KEY: (1, WIDTH // HEADS),
    VALUE: (1, WIDTH // HEADS),
    ATTENTION: (HEADS, WIDTH // HEADS),
    MLP_HIDDEN: (HIDDEN,),
}
ALL_BUT_ATTENTION = (QUERY, KEY, VALUE, MLP_HIDDEN)


class Stack(nn.Module):
    """Blocks alone."""

    remat: Any = False
    mlp: Any = partial(MLP, hidden=HIDDEN)
    cross_attention: Any = None

    @nn.compact
    def __call__(self, x):
        blocks = stacked(
            LAYERS,
            partial(SelfAttention, heads=HEADS, groups=1),
            self.mlp,
            LayerNorm,
            initializer=nn.initializers.normal(0.2),
            output_initializer=nn.initializers.normal(0.2),
            dtype=jnp.float32,
            cross_attention=self.cross_attention,
            remat=self.remat,
        )
        return blocks(x, None, Places(jnp.arange(TIME)[None, :], memory=X[:, :4]))[0]


def parameters(network):
    return jax.jit(lambda key: meta.unbox(network.init(key, X)))(jax.random.key(1))


def total(network, params):
    return jnp.square(network.apply(params, X)).mean()


def kept(network):
    """How many arrays of which shape and memory the layers keep for the backward pass."""
    params = jax.eval_shape(lambda: meta.unbox(network.init(jax.random.key(1), X)))

    def residuals(params):
        return jax.tree.leaves(jax.vjp(partial(total, network), params)[1])

    arrays = jax.make_jaxpr(residuals)(params).out_avals
    return Counter(
        (array.shape[3:], array.memory_space)
        for array in arrays
        if array.shape[1:3] == (BATCH, TIME)
    )


@pytest.fixture(scope="module")
def plain():
    network = Stack()
    params = parameters(network)
    return params, jax.jit(jax.value_and_grad(partial(total, network)))(params)


@pytest.mark.parametrize(
    "remat",
    [
        True,
        saving(*ALL_BUT_ATTENTION),
        offloading(BLOCK_INPUT, MLP_HIDDEN, saved=(ATTENTION, RESIDUAL)),
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    ],
)
def test_no_policy_changes_loss_or_gradient(plain, remat):
    params, expected = plain
    network = Stack(remat=remat)
    found = jax.jit(jax.value_and_grad(partial(total, network)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


def test_without_a_policy_the_input_of_each_block_is_all_that_is_kept():
    assert kept(Stack(remat=True)) == {((WIDTH,), Space.Device): 1}
    assert sum(kept(Stack()).values()) > 1 + len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_name_is_kept_beside_the_input_and_nothing_else_is(name):
    expected = Counter([((WIDTH,), Space.Device)])
    if name != BLOCK_INPUT:
        expected[SHAPES[name], Space.Device] += 1
    assert kept(Stack(remat=saving(name))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_an_offloaded_name_is_kept_in_the_hosts_memory(name):
    expected = Counter([(SHAPES[name], Space.Host)])
    if name != BLOCK_INPUT:
        expected[(WIDTH,), Space.Device] += 1
    assert kept(Stack(remat=offloading(name))) == expected


def test_offloading_keeps_what_it_is_told_to_save_on_the_device():
    assert kept(Stack(remat=offloading(MLP_HIDDEN, saved=(QUERY,)))) == {
        ((WIDTH,), Space.Device): 1,
        (SHAPES[MLP_HIDDEN], Space.Host): 1,
        (SHAPES[QUERY], Space.Device): 1,
    }


def test_a_gated_network_names_both_of_its_halves():
    network = Stack(remat=saving(MLP_HIDDEN), mlp=partial(GatedMLP, hidden=HIDDEN))
    assert kept(network)[SHAPES[MLP_HIDDEN], Space.Device] == 2


def test_cross_attention_names_its_own():
    # Its keys and values are as many as the memory is long, 4.
    network = Stack(remat=saving(QUERY, RESIDUAL), cross_attention=partial(CrossAttention, heads=3))
    assert kept(network) == {
        ((WIDTH,), Space.Device): 3,
        (SHAPES[QUERY], Space.Device): 1,
        ((3, WIDTH // 3), Space.Device): 1,
    }


def test_a_policy_reaches_each_block_of_a_turn():
    network = Stack(
        remat=saving(MLP_HIDDEN), mlp=(partial(MLP, hidden=HIDDEN), partial(MLP, hidden=24))
    )
    assert kept(network) == {((n,), Space.Device): 1 for n in (WIDTH, HIDDEN, 24)}


def test_the_less_is_kept_the_less_memory_the_program_takes(plain):
    params, _ = plain

    def temporaries(remat):
        step = jax.jit(jax.grad(partial(total, Stack(remat=remat))))
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    sizes = [temporaries(remat) for remat in (False, saving(*ALL_BUT_ATTENTION), True)]
    # Each kept array alone is a tenth of a step's temporaries here.
    assert sizes[0] > 1.1 * sizes[1] > 1.1**2 * sizes[2]


def test_split_over_devices_offloading_gives_the_same_gradient(plain):
    params, (_, expected) = plain
    mesh = make_mesh(MeshShape(data=4, fsdp=2))
    network = Stack(remat=offloading(BLOCK_INPUT, MLP_HIDDEN))

    def loss(params, x):
        return jnp.square(network.apply(params, x)).mean()

    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        step = jax.jit(jax.grad(loss))
        found = step(params, jax.device_put(X, rows))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
    )


def test_parameters_gathered_from_their_shards_are_not_kept():
    """They are gathered again for the gradient: no copy of all layers waits for it on a device."""
    network = Stack(mlp=partial(MLP, hidden=2000))
    boxed = jax.eval_shape(lambda: network.init(jax.random.key(1), X))
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(boxed))

    def temporaries(shape):
        mesh = make_mesh(shape)
        with jax.set_mesh(mesh):
            places = shardings(boxed, mesh)
            rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
            params, x = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                (meta.unbox(boxed), X),
                (places, rows),
            )
            step = jax.jit(
                jax.grad(lambda params, x: jnp.square(network.apply(params, x)).mean()),
                out_shardings=places,
            )
            return step.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    # Where nothing is split, a device holds all gradients before they are added up.
    assert temporaries(MeshShape(data=1, fsdp=8)) < temporaries(MeshShape(data=8)) - 0.9 * whole


def test_a_name_that_nothing_has_is_refused():
    with pytest.raises(UserError, match=r"No tensor is named 'queries'.*query, key, value"):
        saving(QUERY, "queries")
    with pytest.raises(UserError, match="No tensor is named 'scores'"):
        offloading(QUERY, saved=("scores",))
    with pytest.raises(UserError, match="'key' can't be both"):
        offloading(QUERY, KEY, saved=(KEY,))
