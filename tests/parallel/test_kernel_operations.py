"""Operations of attention kernels, which nothing here runs: counting only traces."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

from jaxgen.nn.attention import attention, cudnn_attention, splash_attention
from jaxgen.parallel.operations import Operations, operations_of


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def of_gradient(function, *arguments):
    """Of the value and of the gradients by all arguments."""

    def summed(*arguments):
        # What the slope of a plain sum is multiplied with would be constant, and might be dropped.
        return jnp.square(function(*arguments)).sum()

    return operations_of(jax.grad(summed, tuple(range(len(arguments)))), *arguments)


@pytest.mark.parametrize("time", [256, 1024])
def test_pallas_kernels_by_their_grid(time):
    batch, heads, depth = 2, 3, 64
    query = array(batch, time, heads, depth)

    interpreted = partial(splash_attention, interpret=True)
    run = partial(attention, causal=True, implementation=interpreted)
    product = 2 * batch * heads * time**2 * depth
    found = operations_of(run, query, query, query)
    assert found == Operations(kernels=2 * product)
    # Two kernels: of keys and values with four products, of queries with three.
    assert of_gradient(run, query, query, query).kernels == (2 + 4 + 3) * product


def test_pallas_kernels_by_their_cost_estimate():
    def kernel(x, out):
        out[...] = x[...] @ x[...]

    def run(x, cost=None):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(kernel, out_shape=shape, cost_estimate=cost, grid=(3,))(x)

    assert operations_of(run, array(8, 8)) == Operations(kernels=3 * 2 * 8**3)
    cost = pallas.CostEstimate(flops=1000, transcendentals=0, bytes_accessed=0)
    assert operations_of(partial(run, cost=cost), array(8, 8)) == Operations(kernels=1000)
    batched = jax.vmap(partial(run, cost=cost))
    assert operations_of(batched, array(5, 8, 8)) == Operations(kernels=5000)


@pytest.mark.parametrize(
    ("visibility", "pairs"),
    [
        ({}, 64 * 64),
        ({"causal": True}, 64 * 65 // 2),
        ({"causal": True, "window": 3}, 3 * 64 - 3),
    ],
)
def test_cudnn_attention_by_what_it_sees(monkeypatch, visibility, pairs):
    # Traced as if there were a GPU.
    monkeypatch.setattr("jaxgen.nn.attention_kernels.cudnn_refuses", lambda *_: None)
    monkeypatch.setattr(
        "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91e3
    )
    query, key = array(2, 64, 4, 16, dtype=jnp.bfloat16), array(2, 64, 2, 16, dtype=jnp.bfloat16)

    run = partial(attention, implementation=cudnn_attention, **visibility)
    product = 2 * 2 * 4 * pairs * 16
    assert operations_of(run, query, key, key) == Operations(kernels=2 * product)
    gradient = of_gradient(run, query, key, key)
    assert gradient == Operations(kernels=7 * product, recomputed=product)
