"""What a transformer's train step asks for, against its closed form; and what is done again.

Nothing here is compiled: counting only traces.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec

from jaxgen.families.autoregressive.architectures import gpt2
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.operations import Operations, operations_of


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


LAYERS, WIDTH, HEADS, TIME, BATCH, VOCABULARY = 3, 32, 4, 128, 2, 97
TOKENS = BATCH * TIME
# Query, key, value and output, and the two of a network four times as wide.
OF_A_LAYER = 4 * WIDTH**2 + 2 * 4 * WIDTH**2
# Scores and weighted sums, without the quarter of them that `xla_attention` leaves out.
ATTENTION = 2 * 2 * BATCH * TIME**2 * WIDTH * 3 // 4


def of_a_step(**changes):
    network = gpt2(VOCABULARY, WIDTH, LAYERS, HEADS, TIME).clone(**changes)

    def step(params, state, tokens):
        def loss(params):
            scores = network.apply({"params": params}, tokens[:, :-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, tokens[:, 1:])
            return losses.mean()

        gradient = jax.grad(loss)(params)
        moves, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, moves), state

    optimizer = optax.adamw(1e-3)
    tokens = array(BATCH, TIME + 1, dtype=jnp.int32)
    drawn = jax.eval_shape(network.init, jax.random.key(0), array(BATCH, TIME, dtype=jnp.int32))
    params = meta.unbox(drawn["params"])
    return operations_of(jax.jit(step), params, jax.eval_shape(optimizer.init, params), tokens)


def test_train_step_of_a_transformer():
    matrices = LAYERS * OF_A_LAYER + VOCABULARY * WIDTH
    # The gradients of embeddings are products with one-hot rows, for tables this short: of the
    # tokens' with each token's, of the positions' (the same in each text) with each position's.
    tables = 2 * (TOKENS * VOCABULARY + TIME * TIME) * WIDTH
    expected = 6 * matrices * TOKENS + 3 * LAYERS * ATTENTION + tables
    assert of_a_step() == Operations(products=expected)


@pytest.mark.parametrize("unroll", [1, LAYERS])
def test_recomputation_is_not_the_models(unroll):
    whole = of_a_step().total
    recomputed = of_a_step(remat=True, unroll=unroll)
    assert recomputed.model == whole
    # All of a block but its last product, whose result nothing asks for.
    again = 2 * (OF_A_LAYER - 4 * WIDTH**2) * TOKENS + ATTENTION
    assert recomputed.recomputed == LAYERS * again
    assert recomputed.total == whole + LAYERS * again


def product(x):
    return jnp.tanh(x @ x.T @ x)


def looped(one):
    return lambda x: jax.lax.scan(lambda x, _: (one(x), None), x, None, length=3)[0]


def branched(x):
    return jax.lax.cond(x[0, 0] > 0, product, jnp.sin, x)


def split(x):
    rows = PartitionSpec("data")
    return jax.shard_map(product, in_specs=rows, out_specs=rows)(x)


def of_gradient(function):
    return operations_of(jax.grad(lambda x: jnp.square(function(x)).sum()), array(8, 8))


@pytest.mark.parametrize("inside", [product, jax.jit(product), looped(product), branched, split])
def test_recomputation_of_all_kinds(inside):
    def plain(x):
        return inside(jnp.sin(inside(x)))

    again = jax.checkpoint(inside)
    with jax.set_mesh(make_mesh(MeshShape(data=8))):
        expected = of_gradient(looped(plain))
        assert expected.recomputed == 0
        for function in (
            looped(jax.checkpoint(plain)),
            looped(jax.checkpoint(lambda x: again(jnp.sin(again(x))))),
            jax.checkpoint(looped(plain)),
        ):
            found = of_gradient(function)
            assert found.model == expected.total
            assert found.recomputed > 0
