"""What every recurrent layer is held to: one pass, steps and parts are the same, slopes too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core.meta import AxisMetadata

from jaxgen.nn.recurrence import Marks, chosen, forgotten, time_major
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import shardings, unbox

ROWS, TIME, FEATURES = 4, 9, 6
X = jax.random.normal(jax.random.key(0), (ROWS, TIME, FEATURES))
# Row 0 ends in padding, row 1 begins anew, row 2 has holes and row 3 begins within one.
BEGINS = jnp.zeros((ROWS, TIME), bool).at[1, jnp.array([4, 5])].set(True).at[2:, 0].set(True)
BEGINS = BEGINS.at[3, 4].set(True)
READS = jnp.ones((ROWS, TIME), bool).at[0, 6:].set(False)
READS = READS.at[2, jnp.array([0, 3, 5])].set(False).at[3, 3:6].set(False)
MARKS = {"no marks": Marks(), "marks": Marks(BEGINS, READS), "begins": Marks(BEGINS)}


def noisy(layer, x=X, size=0.3):
    """Parameters with noise: biases that begin at 0 hide mistakes."""
    boxed = jax.jit(layer.init)(jax.random.key(1), x)
    shardings(boxed, make_mesh(MeshShape()))  # refuses names that the rules don't know
    assert all(is_boxed(leaf) for leaf in jax.tree.leaves(boxed, is_leaf=is_boxed))
    leaves, tree = jax.tree.flatten(unbox(boxed))
    noise = np.random.default_rng(0)
    leaves = [leaf + size * jnp.array(noise.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    return jax.tree.unflatten(tree, leaves)


def is_boxed(leaf):
    return isinstance(leaf, AxisMetadata)


def some_carry(layer, rows=ROWS):
    """A carry that remembers something; all of it above 0."""
    noise = np.random.default_rng(1)
    draw = lambda leaf: (leaf + 0.3 + noise.uniform(size=leaf.shape)).astype(leaf.dtype)
    return jax.tree.map(draw, layer.initial(rows))


def stepwise(layer, params, x, carry, marks=None):
    """The layer on one step after another; marks are handed on step by step."""

    def step(carry, given):
        x, marks = given
        y, carry = layer.apply(params, x[:, None], carry, jax.tree.map(lambda m: m[:, None], marks))
        return carry, y[:, 0]

    carry, y = jax.lax.scan(step, carry, time_major((x, marks or Marks())))
    return time_major(y), carry


def stepwise_by_hand(layer, params, x, carry, marks):
    """The same, the layer not knowing of marks: before each step some of the carry is 0, after it
    some is as it was."""

    def step(carry, given):
        x, marks = given
        before = forgotten(marks.begins, carry)
        y, after = layer.apply(params, x[:, None], before)
        return chosen(marks.reads, after, before), y[:, 0]

    carry, y = jax.lax.scan(step, carry, time_major((x, marks)))
    return time_major(y), carry


def close(found, wanted, atol=2e-5, rtol=1e-4):
    jax.tree.map(partial(np.testing.assert_allclose, atol=atol, rtol=rtol), found, wanted)


def check_slopes(layer, marks, params=None, x=X, atol=5e-5):
    """Outputs, last carry and slopes of one pass are those of the loop, marks by hand."""
    params = noisy(layer, x) if params is None else params
    width = jax.eval_shape(layer.apply, params, x)[0].shape[-1]
    weights = jax.random.normal(jax.random.key(5), (*x.shape[:2], width))
    if marks.reads is not None:
        # What is written where nothing is read is the layer's own business.
        weights = jnp.where(marks.reads[..., None], weights, 0)

    def total(run, params, x, start):
        y, carry = run(params, x, start, marks)
        parts = (y * weights).sum(), [jnp.sin(leaf).sum() for leaf in jax.tree.leaves(carry)]
        return parts[0] + sum(parts[1]), (y * weights, carry)

    found, wanted = (
        jax.jit(jax.value_and_grad(partial(total, run), argnums=(0, 1, 2), has_aux=True))(
            params, x, some_carry(layer, len(x))
        )
        for run in (layer.apply, partial(stepwise_by_hand, layer))
    )
    close(found[0][1], wanted[0][1])
    # Slopes add up over rows and steps.
    close(found[1], wanted[1], atol=atol)


def check_parts(layer, marks, x=X):
    """All at once, in two parts, and in steps: outputs and last carries, padding's too."""
    params = noisy(layer, x)
    run = jax.jit(layer.apply)
    start = some_carry(layer, len(x))
    whole, last = run(params, x, start, marks)
    first, carry = run(params, x[:, :4], start, jax.tree.map(lambda m: m[:, :4], marks))
    second, carry = run(params, x[:, 4:], carry, jax.tree.map(lambda m: m[:, 4:], marks))
    close((jnp.concatenate([first, second], axis=1), carry), (whole, last))
    close(jax.jit(partial(stepwise, layer))(params, x, start, marks), (whole, last))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), last) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), start
    )
    # Without a carry the text begins here.
    if marks.begins is None:
        close(run(params, x), run(params, x, layer.initial(len(x))))


def check_small_moves(layer, params=None, x=X):
    """Slopes of the outputs against what a small move of all parameters does."""
    params = noisy(layer, x) if params is None else params
    width = jax.eval_shape(layer.apply, params, x)[0].shape[-1]
    weights = jax.random.normal(jax.random.key(5), (*x.shape[:2], width))
    total = jax.jit(lambda params: (layer.apply(params, x)[0] * weights).sum())
    slopes = jax.jit(jax.grad(total))(params)
    up, down = (
        jax.tree.map(lambda p, s, size=size: p + size * jnp.sign(s), params, slopes)
        for size in (1e-3, -1e-3)
    )
    wanted = 2e-3 * sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(slopes))
    assert float(total(up) - total(down)) == pytest.approx(wanted, rel=0.02)


def check_long(layer, params, time=4096, size=30.0):
    """Extreme gates over a long sequence: outputs, carry and slopes stay finite."""
    x = size * jax.random.normal(jax.random.key(3), (1, time, FEATURES))

    def total(params, x):
        y, carry = layer.apply(params, x)
        return jnp.square(y).mean() + sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(carry))

    found = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def check_bfloat16(layer, atol=0.1):
    """Products in bfloat16 change little; what is remembered over many steps stays float32."""
    params = noisy(layer)
    half = layer.clone(dtype=jnp.bfloat16)
    y, carry = jax.jit(half.apply)(params, X)
    assert y.dtype == jnp.bfloat16
    assert carry[-1].dtype == jnp.float32
    np.testing.assert_allclose(
        y.astype(jnp.float32), jax.jit(layer.apply)(params, X)[0], atol=atol, rtol=0.05
    )
    slopes = jax.jit(jax.grad(lambda p: half.apply(p, X)[0].astype(jnp.float32).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def float64(params):
    """A layer's parameters for equations in numpy."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def convolved(p, x):
    """A causal convolution in numpy: x (time, width), p its parameters."""
    size = len(p["kernel"])
    seen = np.concatenate([np.zeros((size - 1, x.shape[1])), x])
    return np.array([(seen[t : t + size] * p["kernel"]).sum(0) + p["bias"] for t in range(len(x))])
