"""Ring attention against plain attention on the same arrays, and what it sends and how it works."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import jaxgen.nn.attention as attention_module
from jaxgen.errors import UserError
from jaxgen.nn.attention import ring_attention, xla_attention
from jaxgen.nn.attention_kernels import splash_blocks
from jaxgen.parallel.layout import layout_in_use, with_rules
from jaxgen.parallel.mesh import MeshShape, make_mesh


def arrays(batch=4, time=24, heads=4, groups=2, depth=8, value_depth=6, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (
        (batch, time, heads, depth),
        (batch, time, groups, depth),
        (batch, time, groups, value_depth),
        (batch, time, heads, value_depth),
    )
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]


def documents(batch, time):
    """Segments that end at other places in every row; the last query of row 0 sees nothing."""
    of_queries = jnp.cumsum(jax.random.bernoulli(jax.random.key(5), 0.15, (batch, time)), axis=1)
    return of_queries.at[0, -1].set(-1), of_queries


def value_and_gradients(implementation, given):
    def total(query, key, value, weights):
        out = attention_module.attention(query, key, value, implementation=implementation, **given)
        return (out * weights).astype(jnp.float32).sum(), out

    return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))


def assert_same(mesh, given, inputs, implementation=ring_attention, atol=2e-5):
    expected = value_and_gradients(xla_attention, given)(*inputs)
    with jax.set_mesh(mesh):
        found = value_and_gradients(implementation, given)(*inputs)
    (_, out), gradients = found
    (_, expected_out), expected_gradients = expected
    names = ("out", "query", "key", "value")
    for name, a, b in zip(
        names, (out, *gradients), (expected_out, *expected_gradients), strict=True
    ):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=atol, rtol=atol, err_msg=name)


CASES = {
    "causal": dict(causal=True),
    "full": dict(),
    "causal segments": dict(causal=True, segments=True, soft_cap=2.0),
    "full segments": dict(segments=True, scale=0.7),
    "causal window": dict(causal=True, window=8, soft_cap=2.0),
    "full window": dict(window=4, segments=True),
    "wide full window": dict(window=15),
    "window of one": dict(causal=True, window=1),
    "window of all": dict(causal=True, window=99),
}


@pytest.mark.parametrize("case", CASES)
def test_four_devices_match_plain_attention(case):
    inputs = arrays()
    given = dict(CASES[case])
    if given.pop("segments", False):
        given["segments"] = documents(4, 24)
    assert_same(make_mesh(MeshShape(sequence=4, data=2)), given, inputs)


@pytest.mark.parametrize(
    "shape", [MeshShape(sequence=2, tensor=2, data=2), MeshShape(sequence=8, data=1)], ids=str
)
@pytest.mark.parametrize("causal", [False, True])
def test_other_meshes_match_plain_attention(shape, causal):
    assert_same(make_mesh(shape), dict(causal=causal), arrays(time=16))


@pytest.mark.parametrize("given", [dict(causal=True), dict(causal=True, window=5)], ids=str)
def test_an_odd_number_of_devices_matches_plain_attention(given):
    mesh = make_mesh(MeshShape(sequence=3, data=1), jax.devices()[:3])
    assert_same(mesh, given, arrays(batch=1))


def test_what_does_not_divide_over_rows_and_heads_is_whole_on_each_device():
    inputs = arrays(batch=3, groups=1)
    assert_same(make_mesh(MeshShape(sequence=2, tensor=2, data=2)), dict(causal=True), inputs)


def test_keys_in_several_blocks_match_plain_attention():
    # 256 positions on each device are two blocks of 128, and the scan over them has work to do.
    inputs = arrays(batch=1, time=768, heads=2, groups=1)
    given = dict(window=300, segments=documents(1, 768))
    assert_same(make_mesh(MeshShape(sequence=2), jax.devices()[:2]), given, inputs)


def test_bfloat16_is_float32_inside():
    inputs = arrays(batch=1, time=256, dtype=jnp.bfloat16)
    query, key, value, _ = (x.astype(jnp.float32) for x in inputs)
    exact = attention_module.attention(query, key, value, causal=True, implementation=xla_attention)
    with jax.set_mesh(make_mesh(MeshShape(sequence=4, data=2))):
        out = jax.jit(functools.partial(attention_module.attention, causal=True))(*inputs[:3])
    assert out.dtype == jnp.bfloat16
    # A softmax summed in bfloat16 is off by several percent after 200 terms.
    assert np.abs(np.asarray(out, np.float32) - np.asarray(exact)).max() < 0.02


@pytest.mark.parametrize("case", ["causal", "full segments", "window"])
def test_splash_attention_inside_the_ring_matches_plain_attention(case):
    given = {
        "causal": dict(causal=True, soft_cap=2.0),
        "full segments": dict(segments=documents(1, 256)),
        "window": dict(causal=True, window=200),
    }[case]
    time = 256 if case == "full segments" else 512
    inputs = arrays(batch=1, time=time, heads=2, groups=1, depth=16)
    splash = functools.partial(ring_attention, blocks=splash_blocks(interpret=True))
    assert_same(make_mesh(MeshShape(sequence=2), jax.devices()[:2]), given, inputs, splash, 2e-3)


def test_inside_a_scan_of_checkpointed_layers():
    query, key, value, _ = arrays(value_depth=8, groups=4)

    def total(query, key, value, implementation):
        @jax.checkpoint
        def layer(x, scale):
            out = attention_module.attention(
                x * scale, key, value, causal=True, implementation=implementation
            )
            return x + out, None

        return jnp.square(jax.lax.scan(layer, query, jnp.asarray([0.5, 1.0, 2.0]))[0]).mean()

    run = jax.jit(jax.grad(total, (0, 1, 2)), static_argnums=3)
    expected = run(query, key, value, xla_attention)
    with jax.set_mesh(make_mesh(MeshShape(sequence=4, data=2))):
        found = run(query, key, value, ring_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_inside_vmap_over_a_mesh_axis():
    inputs = [jnp.stack([x, 2 * x]) for x in arrays()]
    segments = jnp.stack([documents(4, 24)[1]] * 2)

    def total(query, key, value, weights, segments, implementation):
        out = attention_module.attention(
            query,
            key,
            value,
            causal=True,
            segments=(segments, segments),
            implementation=implementation,
        )
        return (out * weights).sum()

    def mapped(*inputs, implementation, axis):
        run = functools.partial(total, implementation=implementation)
        return jax.vmap(run, spmd_axis_name=axis)(*inputs, segments).sum()

    plain = functools.partial(mapped, implementation=xla_attention, axis=None)
    ring = functools.partial(mapped, implementation=ring_attention, axis="stage")
    expected = jax.jit(jax.grad(plain, (0, 1, 2)))(*inputs)
    with jax.set_mesh(make_mesh(MeshShape(stage=2, sequence=4, data=1))):
        found = jax.jit(jax.grad(ring, (0, 1, 2)))(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.parametrize("checks", [False, True])
def test_inside_a_shard_map_that_has_taken_the_rows(checks):
    query, key, value, _ = arrays(value_depth=8)
    width = jax.random.normal(jax.random.key(7), (8, 8)) / 8**0.5  # the same on all devices

    def attend(width, query, key, value, implementation):
        return attention_module.attention(
            query @ width, key, value @ width, causal=True, implementation=implementation
        )

    def plain(*inputs):
        return jnp.square(attend(*inputs, xla_attention)).sum()

    def ring(*inputs):
        rows = jax.sharding.PartitionSpec("data")
        run = jax.shard_map(
            functools.partial(attend, implementation=ring_attention),
            in_specs=(jax.sharding.PartitionSpec(), rows, rows, rows),
            out_specs=rows,
            axis_names={"data"},
            check_vma=checks,
        )
        return jnp.square(run(*inputs)).sum()

    expected = jax.jit(jax.grad(plain, (0, 1, 2, 3)))(width, query, key, value)
    with jax.set_mesh(make_mesh(MeshShape(sequence=4, data=2))):
        found = jax.jit(jax.grad(ring, (0, 1, 2, 3)))(width, query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def products(jaxpr):
    """Multiply-adds of all products in a jaxpr, whose loops all run once here."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * np.prod([shape[axis] for axis in contracted])
        for inner in jaxprs_in_params(equation.params):
            total += products(inner)
    return total


def equations(jaxpr, name):
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner, name)


def traced(given, mesh, inputs):
    with jax.set_mesh(mesh):
        return value_and_gradients(None, given).trace(*inputs)


def test_a_causal_mask_gives_every_device_the_same_work():
    mesh = make_mesh(MeshShape(sequence=4, data=2))
    jaxpr = traced(dict(causal=True), mesh, arrays()).jaxpr.jaxpr
    choices = [e for e in equations(jaxpr, "cond") if products(e.params["branches"][0].jaxpr)]
    assert len(choices) == 4  # in the loop and at the last stop, forward and backward
    for choice in choices:
        later, earlier = (products(branch.jaxpr) for branch in choice.params["branches"])
        assert later == earlier > 0
    # Two chunks of 3 queries by one of 3 keys: 2 rows a device, 4 heads, depths of 8 and 6.
    assert products(choices[0].params["branches"][0].jaxpr) == 2 * 3 * 3 * 2 * 4 * (8 + 6)


def test_nothing_as_large_as_the_scores_is_kept_for_the_gradient():
    query, key, value, _ = arrays(batch=2, time=64)
    attend = functools.partial(attention_module.attention, causal=True)
    with jax.set_mesh(make_mesh(MeshShape(sequence=4, data=2))):
        _, back = jax.eval_shape(functools.partial(jax.vjp, attend), query, key, value)
    kept = sorted(leaf.size for leaf in jax.tree.leaves(back) if leaf.size > 1)
    per_head = 2 * 64 * 4
    # The arguments, the result (with the values' depth of 6) and the logsumexp.
    assert kept == sorted([query.size, key.size, value.size, 6 * per_head, per_head])
    assert max(kept) < 2 * 64 * 64


@pytest.mark.parametrize("given", [dict(causal=True), dict(causal=True, window=6), dict()], ids=str)
def test_keys_go_around_and_are_never_gathered(given):
    compiled = traced(given, make_mesh(MeshShape(sequence=4, data=2)), arrays()).lower().compile()
    text = compiled.as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_refusals_name_the_reason():
    inputs = arrays()[:3]

    def refused(match, *inputs, **given):
        with pytest.raises(UserError, match=match):
            attention_module.attention(*inputs, implementation=ring_attention, **given)

    refused("sequence axis has more than one device", *inputs)
    with jax.set_mesh(make_mesh(MeshShape(sequence=4, data=2))):
        refused("as many queries as keys, not 1 by 24", inputs[0][:, :1], *inputs[1:])
        refused("not an array", *inputs, mask=jnp.ones((1, 1, 24, 24), bool))
        refused("without an offset", *inputs, causal=True, offset=jnp.asarray(3))
        refused("no sink tokens", *inputs, causal=True, window=3, sink_tokens=1)
        refused("no biases and no sinks", *inputs, bias=jnp.ones((1, 4, 24, 24)))
        refused("no biases and no sinks", *inputs, sinks=jnp.ones(4))
        refused("no dropout", *inputs, dropout=0.1, dropout_key=jax.random.key(0))
        short = [x[:, :20] for x in inputs]
        refused("over 4 devices takes lengths that divide by 8, not 20", *short, causal=True)
        refused("divide by 4, not 18", *(x[:, :18] for x in inputs))
        with layout_in_use(with_rules({"time": None})):
            refused("time to lie over the mesh's sequence axis", *inputs)


def test_what_the_ring_refuses_is_left_to_others():
    query, key, value, _ = arrays()
    mask = jnp.tril(jnp.ones((1, 1, 24, 24), bool), 3)
    with jax.set_mesh(make_mesh(MeshShape(sequence=4, data=2))):
        run = jax.jit(attention_module.attention)
        assert "ppermute" not in str(run.trace(query, key, value, mask=mask).jaxpr)
        found = run(query, key, value, mask=mask)
    expected = jax.jit(attention_module.attention)(query, key, value, mask=mask)
    np.testing.assert_allclose(found, expected, atol=1e-5)
