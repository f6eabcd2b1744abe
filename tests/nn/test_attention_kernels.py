"""Attention by the kernels that accelerators bring, against plain XLA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.attention import attention, cudnn_attention, splash_attention, xla_attention
from jaxgen.parallel.mesh import MeshShape, make_mesh


def arrays(batch=2, time=6, heads=4, groups=4, depth=8, dtype=jnp.float32, positions=None):
    keys = jax.random.split(jax.random.key(0), 3)
    positions = time if positions is None else positions
    shapes = [(batch, time, heads, depth)] + 2 * [(batch, positions, groups, depth)]
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("case", ["causal", "full", "offset", "segments", "grouped", "window"])
def test_splash_attention_matches_xla(case):
    time = 128 if case == "offset" else 256
    query, key, value = arrays(
        batch=1, time=time, positions=256, heads=2, groups=1 if case == "grouped" else 2, depth=16
    )
    segments = (jnp.arange(256) // 100).reshape(1, 256)
    given = {
        "causal": dict(causal=True),
        "full": dict(),
        "offset": dict(causal=True, offset=128),
        "segments": dict(causal=True, segments=(segments, segments)),
        "grouped": dict(causal=True),
        "window": dict(causal=True, window=70, soft_cap=2.0),
    }[case]
    weights = jax.random.normal(jax.random.key(1), query.shape)

    def run(implementation):
        def total(q, k, v):
            out = attention(q, k, v, implementation=implementation, **given)
            return (out * weights).sum()

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(query, key, value)

    kernel = run(functools.partial(splash_attention, interpret=True))
    plain = run(xla_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), kernel, plain)


def test_splash_attention_runs_on_every_device_by_itself():
    query, key, value = arrays(batch=4, time=128, positions=128, heads=2, groups=2, depth=16)
    plain = attention(query, key, value, causal=True)
    kernel = functools.partial(splash_attention, interpret=True)
    with jax.set_mesh(make_mesh(MeshShape(data=2, fsdp=2, tensor=2))):
        run = jax.jit(functools.partial(attention, causal=True, implementation=kernel))
        out = run(query, key, value)
        few = run(query[:3], key[:3, :, :1], value[:3, :, :1])  # divides over no axis
    np.testing.assert_allclose(
        few,
        attention(query[:3], key[:3, :, :1], value[:3, :, :1], causal=True),
        rtol=2e-3,
        atol=2e-3,
    )
    assert len(out.sharding.device_set) == 8
    np.testing.assert_allclose(out, plain, rtol=2e-3, atol=2e-3)
    # What divides over no axis either: the compiler refuses a kernel that it might have to split.
    run = jax.jit(functools.partial(attention, implementation=splash_attention))
    with jax.set_mesh(make_mesh(MeshShape(data=4, stage=2))):
        run.trace(query[:1], key[:1], value[:1]).lower(lowering_platforms=("tpu",))


def test_cudnn_attention_runs_on_every_device_by_itself(monkeypatch):
    """With XLA's attention in its place."""
    shapes, plain = set(), jax.nn.dot_product_attention

    def stand_in(query, key, value, **given):
        shapes.add((query.shape, key.shape))
        return plain(query, key, value, **{**given, "implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr("jaxgen.nn.attention_kernels.cudnn_refuses", lambda *_: None)
    segments = jnp.asarray([[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 3]] * 2)
    inputs = [*arrays(batch=4, groups=2), jax.random.normal(jax.random.key(2), (1, 4, 6, 6))]

    def gradients(implementation):
        def total(query, key, value, bias):
            out = attention(
                query,
                key,
                value,
                bias=bias,
                segments=(segments, segments),
                causal=True,
                implementation=implementation,
            )
            return jnp.square(out).sum()

        return jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(*inputs)

    expected = gradients(xla_attention)
    with jax.set_mesh(make_mesh(MeshShape(data=2, sequence=2, tensor=2))):
        found = gradients(cudnn_attention)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        found,
        expected,
    )
    assert shapes == {((2, 6, 2, 8), (2, 6, 1, 8))}


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_attention_matches_xla(causal):
    query, key, value = arrays(time=256, positions=256, groups=2, depth=64, dtype=jnp.bfloat16)

    def run(implementation):
        def total(q, k, v):
            out = attention(q, k, v, causal=causal, implementation=implementation)
            return out.astype(jnp.float32).sum()

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(query, key, value)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0.05, atol=0.05
        ),
        run(cudnn_attention),
        run(xla_attention),
    )
