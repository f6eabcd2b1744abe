"""Experts on several devices against the same experts on one, and what travels between them."""

import math
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.nn.expert_dispatch import dropless, within_capacity
from jaxgen.nn.grouped_product import grouped_product
from jaxgen.nn.mixture_of_experts import MixtureOfExperts
from jaxgen.nn.routing import top_experts
from jaxgen.parallel.layout import BATCH_AXES, layout_in_use, with_rules
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.operations import operations_of
from jaxgen.parallel.sharding import shardings

EXPERTS, CHOSEN, GROUPS, TOKENS, WIDTH, HIDDEN = 8, 2, 8, 10, 12, 14
NORMAL = nn.initializers.normal(0.7)
X = jax.random.normal(jax.random.key(0), (GROUPS, TOKENS, WIDTH))
SLOPE = jax.random.normal(jax.random.key(1), X.shape)
ALL_REAL = jnp.ones(X.shape[:2], bool)
SOME_REAL = jax.random.bernoulli(jax.random.key(3), 0.7, X.shape[:2])
TIGHT = partial(within_capacity, factor=0.75)
BY_ALL = MeshShape(data=1, expert=8)


def mixture(dispatch=dropless, experts=EXPERTS, dtype=jnp.float32):
    return MixtureOfExperts(
        experts, CHOSEN, HIDDEN, dispatch=dispatch, dtype=dtype,
        initializer=NORMAL, output_initializer=NORMAL,
    )  # fmt: skip


BOXED = jax.jit(mixture().init)(jax.random.key(2), X)["params"]
PARAMS = meta.unbox(BOXED)


def crowded(params):
    """Every token's first choice is expert 5, its second 4: one device has all if it can."""
    router = jnp.zeros((WIDTH, EXPERTS)).at[0, 5].set(50.0).at[0, 4].set(40.0)
    return {**params, "router": {"kernel": router}}


LOADS = {
    "even": (PARAMS, X, ALL_REAL),
    "padded": (PARAMS, X, SOME_REAL),
    "crowded": (crowded(PARAMS), X.at[..., 0].set(1.0), SOME_REAL),
}


def run(module):
    """Output, router values and gradients (parameters, x) of one program."""

    @jax.jit
    def both(params, x, slope, real):
        def forward(params, x):
            return module.apply({"params": params}, x, real, mutable=["router"])

        (out, left), back = jax.vjp(forward, params, x)
        return out, left["router"], back((slope, jax.tree.map(jnp.ones_like, left)))

    return both


@pytest.fixture(scope="module", params=[dropless, TIGHT], ids=["dropless", "within capacity"])
def alone(request):
    program = run(mixture(request.param))
    return request.param, {
        name: program(params, x, SLOPE, real) for name, (params, x, real) in LOADS.items()
    }


def placed(mesh, params, *rows, boxed=BOXED):
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return jax.device_put(params, shardings(boxed, mesh)), *jax.device_put(rows, by_row)


def close(ours, theirs):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), ours, theirs)


def check_loads(mesh, alone):
    dispatch, expected = alone
    with jax.set_mesh(mesh):
        program = run(mixture(dispatch))
        for name, (params, x, real) in LOADS.items():
            close(program(*placed(mesh, params, x, SLOPE, real)), expected[name])
    crowded = expected["crowded"][1]
    assert crowded["load_entropy"] == pytest.approx(math.log(2), rel=1e-6)
    assert crowded["dropped"] == 0 if dispatch is dropless else crowded["dropped"] > 0.5


@pytest.mark.parametrize(
    "shape",
    [
        BY_ALL,
        pytest.param(MeshShape(data=2, expert=4), marks=pytest.mark.slow),
        MeshShape(data=1, fsdp=2, expert=2, tensor=2),
        pytest.param(MeshShape(data=1, expert=4, sequence=2), marks=pytest.mark.slow),
    ],
)
def test_many_devices_do_what_one_does(shape, alone):
    check_loads(make_mesh(shape), alone)


@pytest.mark.slow
def test_experts_over_two_axes(alone):
    with layout_in_use(with_rules({"experts": ("fsdp", "expert"), "embed": None})):
        check_loads(make_mesh(MeshShape(data=1, fsdp=2, expert=4)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", [dropless, TIGHT])
def test_half_precision_is_as_exact_as_on_one_device(dispatch):
    module = mixture(dispatch, dtype=jnp.bfloat16)
    rows = X.astype(jnp.bfloat16), SLOPE.astype(jnp.bfloat16)
    exact = run(mixture(dispatch))(PARAMS, *(r.astype(jnp.float32) for r in rows), SOME_REAL)
    on_one = run(module)(PARAMS, *rows, SOME_REAL)
    mesh = make_mesh(BY_ALL)
    with jax.set_mesh(mesh):
        on_many = run(module)(*placed(mesh, PARAMS, *rows, SOME_REAL))
    assert on_many[0].dtype == jnp.bfloat16

    def error(leaf, true):
        leaf, true = np.asarray(leaf, np.float64), np.asarray(true, np.float64)
        return np.linalg.norm(leaf - true) / np.linalg.norm(true)

    close(on_many[1], on_one[1])
    leaves = (jax.tree.leaves((out, slopes)) for out, _, slopes in (on_many, on_one, exact))
    for many, one, true in zip(*leaves, strict=True):
        assert error(many, true) < 1.2 * error(one, true)


@pytest.mark.parametrize("dispatch", [dropless, pytest.param(TIGHT, marks=pytest.mark.slow)])
def test_in_stages_of_scanned_layers_made_anew_for_the_gradient(dispatch):
    """As a pipeline runs them: each stage's layers, on its own devices, at the same time."""
    module = mixture(dispatch)
    # Two layers a stage. The second stage has more rounds: most of it goes to one device.
    stages = jax.tree.map(lambda *each: jnp.stack(each), PARAMS, crowded(PARAMS))
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf], axis=1), stages)
    x = jnp.stack([X, X[::-1].at[..., 0].set(1.0)])

    def stage(params, x):
        @jax.checkpoint
        def layer(x, params):
            return x + 0.3 * module.apply({"params": params}, x), None

        return jax.lax.scan(layer, x, params)[0]

    def gradients(axis):
        def loss(params, x):
            return (jax.vmap(stage, spmd_axis_name=axis)(params, x) * SLOPE[None]).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    expected = gradients(None)(params, x)
    mesh = make_mesh(MeshShape(stage=2, data=1, expert=4))
    with jax.set_mesh(mesh):
        params, x = jax.device_put((params, x), NamedSharding(mesh, PartitionSpec("stage")))
        together = gradients("stage")(params, x)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


def exchanges(program):
    """(kind, dimensions, type) of each array that devices exchange."""
    exchange = r"= (.*?) (all-to-all|all-gather)(?:-start)?\("
    return [
        (kind, tuple(int(size) for size in sizes.split(",") if size), type_)
        for results, kind in re.findall(exchange, program.as_text())
        for type_, sizes in re.findall(r"(\w+)\[([\d,]*)\]", results)
    ]


def exchanged_forward(module, params, boxed, shape):
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        program = jax.jit(module.apply, out_shardings=by_row)
        params, rows = placed(mesh, params, X, boxed=boxed)
        return exchanges(program.lower({"params": params}, rows).compile())


def whole_kernels(found, experts, shape):
    """Gathered arrays as large as all experts' kernels, of one kind."""
    size = experts * WIDTH * HIDDEN // shape.tensor
    return [sizes for kind, sizes, _ in found if kind == "all-gather" and math.prod(sizes) >= size]


def sent(found, type_):
    """How many numbers each device's all-to-alls take, its own part included."""
    return sum(math.prod(sizes) for kind, sizes, t in found if kind == "all-to-all" and t == type_)


@pytest.mark.parametrize("shape", [BY_ALL, MeshShape(data=1, fsdp=2, expert=2, tensor=2)])
def test_tokens_travel_and_kernels_stay(shape):
    groups = GROUPS // (shape.fsdp * shape.expert)
    found = exchanged_forward(mixture(TIGHT), PARAMS, BOXED, shape)
    assert not whole_kernels(found, EXPERTS, shape)
    capacity = math.ceil(0.75 * CHOSEN * TOKENS / EXPERTS)
    assert sent(found, "f32") == 2 * groups * EXPERTS * capacity * WIDTH

    found = exchanged_forward(mixture(dropless), PARAMS, BOXED, shape)
    assert not whole_kernels(found, EXPERTS, shape)
    assignments = groups * TOKENS * CHOSEN
    room = math.ceil(assignments / (2 * shape.expert))  # a round's, for a pair of devices
    assert sent(found, "f32") == 2 * shape.expert * room * WIDTH
    assert sent(found, "s32") == shape.expert * room


@pytest.mark.parametrize(
    ("load", "shape"), [("padded", BY_ALL), ("crowded", MeshShape(data=2, expert=4))]
)
def test_rounds_are_as_many_as_the_fullest_pair_of_devices_needs(load, shape):
    params, x, real = LOADS[load]
    calls = []

    def counted(x, kernels, sizes):
        jax.debug.callback(lambda rows: calls.append(int(rows)), sizes.sum())
        return grouped_product(x, kernels, sizes)

    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        forward = jax.jit(mixture(partial(dropless, product=counted)).apply)
        ours, *rows = placed(mesh, params, x, real)
        jax.block_until_ready(forward({"params": ours}, *rows))
        jax.effects_barrier()

    # One row of the batch a device.
    chosen, _ = top_experts(x @ params["router"]["kernel"], CHOSEN, True)
    own, room = EXPERTS // shape.expert, math.ceil(TOKENS * CHOSEN / (2 * shape.expert))
    fullest = np.zeros(shape.data, int)
    for device, (row, there) in enumerate(zip(chosen, real, strict=True)):
        loads = np.bincount(np.asarray(row)[np.asarray(there)].reshape(-1) // own)
        group = device // shape.expert
        fullest[group] = max(fullest[group], loads.max())
    rounds = -(-fullest // room)
    assert rounds.max() > 2
    assert len(calls) == 3 * shape.expert * rounds.sum()  # three products a round
    assert sum(calls) == 3 * CHOSEN * real.sum()


@pytest.mark.parametrize("again", [lambda f: f, jax.checkpoint], ids=["kept", "checkpoint"])
def test_what_rounds_make_again_is_one_forward_pass(again):
    width, tokens = 64, 32
    dispatch = partial(dropless, product=jax.lax.ragged_dot)  # the other has its own loops
    module = MixtureOfExperts(EXPERTS, CHOSEN, hidden=2048, dispatch=dispatch)
    x = jax.ShapeDtypeStruct((GROUPS, tokens, width), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)

    def counted():
        # Another function each time: jax remembers what it has traced.
        forward = again(lambda params, x: module.apply(meta.unbox(params), x).sum())
        return operations_of(jax.grad(forward, argnums=(0, 1)), params, x)

    on_one = counted()
    with jax.set_mesh(make_mesh(BY_ALL)):
        on_many = counted()
    assert on_many.unknown_loops == 0
    assert on_many.model == pytest.approx(on_one.model, rel=1e-3)
    forward = 3 * 2 * width * 2048 * GROUPS * tokens * CHOSEN
    assert on_many.recomputed == pytest.approx(forward, rel=1e-3)


@pytest.mark.parametrize("dispatch", [dropless, pytest.param(TIGHT, marks=pytest.mark.slow)])
def test_experts_that_do_not_divide_are_fetched(dispatch):
    experts = 6  # over 4 devices
    module = mixture(dispatch, experts)
    boxed = jax.jit(module.init)(jax.random.key(2), X)["params"]
    params, shape = meta.unbox(boxed), MeshShape(data=2, expert=4)
    found = exchanged_forward(module, params, boxed, shape)
    assert not any(kind == "all-to-all" for kind, *_ in found)
    assert whole_kernels(found, experts, shape)
    mesh = make_mesh(shape)
    with jax.set_mesh(mesh):
        ours, rows = placed(mesh, params, X, boxed=boxed)
        out = jax.jit(module.apply)({"params": ours}, rows)
    close(out, jax.jit(module.apply)({"params": params}, X))


def test_rows_that_do_not_divide_travel_all_the_same(alone):
    module, shape = mixture(alone[0]), MeshShape(data=2, expert=4)
    mesh, rows = make_mesh(shape), (X[:2], SLOPE[:2], ALL_REAL[:2])
    on_one = run(module)(PARAMS, *rows)
    with jax.set_mesh(mesh):
        rows = jax.device_put(rows, NamedSharding(mesh, PartitionSpec("data")))
        params = jax.device_put(PARAMS, shardings(BOXED, mesh))
        program = run(module).lower(params, *rows).compile()
        on_many = program(params, *rows)
    assert not whole_kernels(exchanges(program), EXPERTS, shape)
    close(on_many, on_one)
